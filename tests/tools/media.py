"""Draws the sample videos that the simulator serves: `bridge/simulator/media/`.

They are committed, because neither users nor tests need an encoder then. To draw them again:
`pip install --group pictures`, then `python tests/tools/media.py`. VP8 in WebM plays in every browser,
also in builds without licensed codecs; H.264 in MP4 is what most providers send.
"""

from __future__ import annotations

import colorsys
import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FOLDER = Path(__file__).parents[2] / "bridge" / "simulator" / "media"
WIDTH, HEIGHT, RATE, SECONDS = 320, 180, 25, 4
HUES = (0.58, 0.83, 0.08)
FORMATS = {
    "webm": ("libvpx", "yuv420p", {"deadline": "best", "crf": "22", "b": "90k"}),
    "mp4": ("libx264", "yuv420p", {"crf": "26", "preset": "veryslow", "profile": "baseline"}),
}


def frame(number: int, hue: float) -> np.ndarray:
    """One frame of a loop: a sun that crosses the sky above waves. Returns (height, width, 3) bytes."""
    turn = number / (RATE * SECONDS)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    horizon = (y / HEIGHT)[..., None] * np.array([0.25, 0.18, 0.1])
    sky = np.array(colorsys.hsv_to_rgb(hue, 0.75, 0.35)) + horizon
    sun_x = WIDTH * (0.5 - 0.38 * math.cos(2 * math.pi * turn))
    sun_y = HEIGHT * (0.42 - 0.2 * abs(math.sin(2 * math.pi * turn)))
    near = np.hypot(x - sun_x, y - sun_y)
    picture = sky + np.clip(1 - near / 95, 0, 1)[..., None] ** 2 * 0.5
    picture[near < 22] = (1.0, 0.93, 0.72)
    for layer, (height, value) in enumerate(((0.66, 0.55), (0.76, 0.42), (0.87, 0.3))):
        phase = 2 * math.pi * (turn * (layer + 1) + x / WIDTH * (1.5 + layer * 0.5))
        wave = y > HEIGHT * height + 6 * np.sin(phase)
        picture[wave] = colorsys.hsv_to_rgb((hue + 0.04 * layer) % 1, 0.6, value)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def encode(path: Path, codec: str, pixels: str, options: dict[str, str], hue: float) -> None:
    """Write one silent video that browsers can seek in: the index is at the beginning."""
    muxer = {"movflags": "+faststart"} if path.suffix == ".mp4" else {"reserve_index_space": "256"}
    with av.open(str(path), "w", options={**muxer, "fflags": "+bitexact"}) as out:
        stream = out.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.time_base = Fraction(1, RATE)
        stream.gop_size = RATE
        for number in range(RATE * SECONDS):
            image = av.VideoFrame.from_ndarray(frame(number, hue), format="rgb24")
            image.pts = number
            out.mux(stream.encode(image))
        out.mux(stream.encode(None))


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for index, hue in enumerate(HUES, start=1):
        for ending, (codec, pixels, options) in FORMATS.items():
            encode(FOLDER / f"video-{index}.{ending}", codec, pixels, options, hue)
