"""The small files that results link to: videos, images and sounds that browsers play."""

import colorsys
import math
import re
import struct
import wave
import zlib
from array import array
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from sys import byteorder

from aiohttp import web

from bridge.simulator.calls import CallCounts
from bridge.simulator.lifecycle import Media
from bridge.simulator.tasks import Task

# Drawn by tests/tools/media.py. Every browser plays VP8 in WebM; the H.264 in MP4 is for recorded links.
VIDEOS = files("bridge.simulator").joinpath("media")
VARIANTS = 3
ENDINGS = {Media.VIDEO: "webm", Media.IMAGE: "png", Media.AUDIO: "wav"}
# Which file is served under the extension of a recorded link; the content type is the real one.
SERVED_AS = {
    **dict.fromkeys(("mp4", "mov", "m4v"), "mp4"),
    "webm": "webm",
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "gif", "svg"), "png"),
    **dict.fromkeys(("wav", "mp3", "m4a", "ogg", "flac"), "wav"),
    "bin": "bin",
}
CONTENT_TYPES = {
    "webm": "video/webm",
    "mp4": "video/mp4",
    "png": "image/png",
    "wav": "audio/wav",
    "bin": "application/octet-stream",
}
ENDING_OF = {"video": "mp4", "image": "png", "audio": "wav"}
WIDTH, HEIGHT = 320, 180
HORIZON, SUN_RADIUS = 0.7, 30
SAMPLES_PER_SECOND = 16_000
NOTES = (0, 4, 7, 12)  # semitones above the first: a chord, one note after the other
SECONDS_PER_NOTE = 0.4
# A page of any origin may load them and read them in parts, as from a CDN.
SHARED_HEADERS = {
    "Accept-Ranges": "bytes",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Length, Content-Range",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Cache-Control": "public, max-age=3600",
}
PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "3600",
}
_RANGE = re.compile(r"bytes=(?P<first>[0-9]{0,18})-(?P<last>[0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileResponse:
    """A response with a file, or with a part of it."""

    status: int
    headers: dict[str, str]
    body: bytes


def files_of(task: Task) -> str:
    """Return the prefix of the links to the files of a task, without a slash at the end."""
    return task.files_url or f"{task.origin}/files"


def file_url(task: Task) -> str:
    return f"{files_of(task)}/{task.id}.{ENDINGS[task.media]}"


def known_ending(path: str) -> str:
    """Return the extension of a recorded link, or an empty string if the simulator has no such file."""
    ending = path.rpartition(".")[2].lower()
    return ending if ending in SERVED_AS else ""


def routes(calls: CallCounts) -> list[web.RouteDef]:
    async def elsewhere(request: web.Request) -> web.Response:
        """Target of the `redirect` fault: counts clients that follow the redirect."""
        calls.count("elsewhere", request.method, "")
        return web.Response(
            text="<html><body>You followed a redirect.</body></html>", content_type="text/html"
        )

    return [
        web.get("/files/{name}", serve),
        web.options("/files/{name}", preflight),
        web.get("/_sim/elsewhere", elsewhere),
    ]


async def serve(request: web.Request) -> web.Response:
    """Serve a file, or the part that `Range` asks for."""
    response = respond(request.match_info["name"], request.headers.get("Range", ""))
    if response is None:
        raise web.HTTPNotFound
    return web.Response(body=response.body, status=response.status, headers=response.headers)


async def preflight(request: web.Request) -> web.Response:
    """Allow pages of every origin to ask for a part of a file."""
    del request
    return web.Response(status=204, headers=PREFLIGHT_HEADERS)


def respond(name: str, requested: str = "") -> FileResponse | None:
    """Return the response for a file, whose picture or tone depends on its name; None if there is none.

    Args:
        requested: The header `Range`. Safari plays no video without an answer to it; several ranges in one
            request are answered with the whole file, which RFC 9110 allows.
    """
    stem, _, ending = name.rpartition(".")
    kind = SERVED_AS.get(ending.lower())
    if kind is None:
        return None
    body = _content(kind, zlib.crc32(stem.encode("utf-8", "surrogatepass")) % 12 * 30)
    headers = {**SHARED_HEADERS, "Content-Type": CONTENT_TYPES[kind]}
    match = _RANGE.fullmatch(requested.strip())
    if match is None or not (match["first"] or match["last"]):
        return FileResponse(200, headers, body)
    if match["first"]:
        first, last = int(match["first"]), min(int(match["last"] or len(body)), len(body) - 1)
    else:
        first, last = max(len(body) - int(match["last"]), 0), len(body) - 1
    if match["first"] and match["last"] and int(match["last"]) < first:
        return FileResponse(200, headers, body)
    if first >= len(body):
        return FileResponse(416, {**headers, "Content-Range": f"bytes */{len(body)}"}, b"")
    headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return FileResponse(206, headers, body[first : last + 1])


@lru_cache(maxsize=64)
def _content(kind: str, hue: int) -> bytes:
    if kind in ("webm", "mp4"):
        return VIDEOS.joinpath(f"video-{hue // 30 % VARIANTS + 1}.{kind}").read_bytes()
    return {"png": png, "wav": wav, "bin": noise}[kind](hue)


def noise(hue: int) -> bytes:
    """Return bytes that are neither an image nor audio."""
    return bytes((hue + index) % 256 for index in range(64))


def png(hue: int) -> bytes:
    """Return a sun above the sea, with 8 bits per channel (PNG, third edition, sections 5 and 11)."""
    rows = b"".join(b"\0" + _row(hue / 360, y) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _row(hue: float, y: int) -> bytes:
    height = y / HEIGHT
    if height > HORIZON:
        return _colour(hue + 0.05, 0.6, 0.5 - 0.4 * (height - HORIZON)) * WIDTH
    sky = _colour(hue, 0.75 - 0.5 * height, 0.35 + 0.5 * height)
    half = int(math.sqrt(max(SUN_RADIUS**2 - (y - HEIGHT * HORIZON * 0.6) ** 2, 0)))
    side = (WIDTH - 2 * half) // 2
    return sky * side + _colour(0.12, 0.25, 1.0) * (WIDTH - 2 * side) + sky * side


def _colour(hue: float, saturation: float, value: float) -> bytes:
    return bytes(round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def wav(hue: int) -> bytes:
    """Return a chord of 1.6 seconds, one note after the other (16 bits, mono)."""
    base, count = 220 * 2 ** (hue / 360), int(SAMPLES_PER_SECOND * SECONDS_PER_NOTE)
    samples = array("h")
    for note in NOTES:
        step = 2 * math.pi * base * 2 ** (note / 12) / SAMPLES_PER_SECOND
        samples.extend(
            int(9000 * math.sin(step * index) * min(index / 160, 1 - index / count)) for index in range(count)
        )
    if byteorder == "big":
        samples.byteswap()
    buffer = BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLES_PER_SECOND)
        out.writeframes(samples.tobytes())
    return buffer.getvalue()
