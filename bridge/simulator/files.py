"""Generates the small files that results link to."""

import math
import struct
import wave
import zlib
from io import BytesIO

from aiohttp import web

from bridge.simulator.calls import CallCounts
from bridge.simulator.lifecycle import Media
from bridge.simulator.tasks import Task

# An animated SVG, which any browser shows in an image element; a real video would need an encoder.
ENDINGS = {Media.VIDEO: "svg", Media.IMAGE: "png", Media.AUDIO: "wav"}
# Which generated file is served under the extension of a recorded link; the content type is the real one.
GENERATED_AS = {
    **dict.fromkeys(("svg", "mp4", "webm", "mov", "m4v"), "svg"),
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "gif"), "png"),
    **dict.fromkeys(("wav", "mp3", "m4a", "ogg", "flac"), "wav"),
    "bin": "bin",
}
ENDING_OF = {"video": "mp4", "image": "png", "audio": "wav"}
SIDE = 64
SAMPLES_PER_SECOND = 8000


def file_url(task: Task) -> str:
    return f"{task.origin}/files/{task.id}.{ENDINGS[task.media]}"


def known_ending(path: str) -> str:
    """Return the extension of a recorded link, or an empty string if the simulator has no such file."""
    ending = path.rpartition(".")[2].lower()
    return ending if ending in GENERATED_AS else ""


def routes(calls: CallCounts) -> list[web.RouteDef]:
    async def elsewhere(request: web.Request) -> web.Response:
        """Target of the `redirect` fault: counts clients that follow the redirect."""
        calls.count("elsewhere", request.method, "")
        return web.Response(
            text="<html><body>You followed a redirect.</body></html>", content_type="text/html"
        )

    return [web.get("/files/{name}", serve), web.get("/_sim/elsewhere", elsewhere)]


async def serve(request: web.Request) -> web.Response:
    """Serve a file whose colour or tone depends on its name; any origin may load it, as from a CDN."""
    name, _, ending = request.match_info["name"].rpartition(".")
    hue = zlib.crc32(name.encode()) % 360
    makers = {
        "svg": (svg, "image/svg+xml"),
        "png": (png, "image/png"),
        "wav": (wav, "audio/wav"),
        "bin": (noise, "application/octet-stream"),
    }
    if ending not in GENERATED_AS:
        raise web.HTTPNotFound
    make, content_type = makers[GENERATED_AS[ending]]
    headers = {"Content-Type": content_type, "Access-Control-Allow-Origin": "*"}
    return web.Response(body=make(hue), headers=headers)


def noise(hue: int) -> bytes:
    """Return bytes that are neither an image nor audio."""
    return bytes((hue + index) % 256 for index in range(SIDE))


def svg(hue: int) -> bytes:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="320" height="180" viewBox="0 0 320 180">'
        f'<rect width="320" height="180" fill="hsl({hue} 60% 25%)"/>'
        f'<circle cx="60" cy="90" r="40" fill="hsl({(hue + 40) % 360} 80% 60%)">'
        '<animate attributeName="cx" values="60;260;60" dur="3s" repeatCount="indefinite"/></circle></svg>'
    ).encode()


def png(hue: int) -> bytes:
    """Return a gradient with 8 bits per channel (PNG, third edition, sections 5 and 11)."""
    red, green, blue = (int(127 + 127 * math.cos(math.radians(hue + turn))) for turn in (0, 120, 240))
    rows = b"".join(
        b"\0" + b"".join(bytes((red * x // SIDE, green * y // SIDE, blue)) for x in range(SIDE))
        for y in range(SIDE)
    )
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def wav(hue: int) -> bytes:
    """Return half a second of a tone."""
    tone = 220 + hue
    samples = (
        int(127 + 60 * math.sin(2 * math.pi * tone * index / SAMPLES_PER_SECOND))
        for index in range(SAMPLES_PER_SECOND // 2)
    )
    buffer = BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(SAMPLES_PER_SECOND)
        out.writeframes(bytes(samples))
    return buffer.getvalue()
