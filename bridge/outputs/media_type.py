"""The type of a file, judged by its first bytes: what a page may show of it, and what it can only save.

A file is served from the bridge's own origin. So only the types of this list are shown, and only where the
bytes are those of the type: an HTML page that calls itself an image is a download without a type.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SNIFFED_BYTES = 64
"""So many of a file's first bytes decide."""

UNKNOWN = "application/octet-stream"

# What servers say that know nothing of the file: a bucket's default, and what a missing header means.
_SAYS_NOTHING = frozenset(
    {"", UNKNOWN, "binary/octet-stream", "application/x-download", "application/force-download"}
)
_KINDS = frozenset({"image", "video", "audio"})
_ISO_IMAGES = {
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
}


class MediaType(NamedTuple):
    """What a file is served as.

    Args:
        name: Such as `video/mp4`; `application/octet-stream` where it is nothing that a page may show.
        extension: For its file name, with the dot.
    """

    name: str
    extension: str

    @property
    def shown(self) -> bool:
        """Whether a page may show it, instead of saving it."""
        return self.name != UNKNOWN


_DOWNLOAD = MediaType(UNKNOWN, "")

_EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "image/heic": ".heic",
    "image/heif": ".heif",
    "image/bmp": ".bmp",
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
    "video/ogg": ".ogv",
    "audio/mp4": ".m4a",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "audio/flac": ".flac",
    "audio/aac": ".aac",
    "audio/ogg": ".ogg",
    "audio/webm": ".weba",
}


def media_type_of(head: bytes, declared: str | None, kind: str | None = None) -> MediaType:
    """The type a file is served as.

    Args:
        head: Its first bytes, at least `SNIFFED_BYTES` unless it is shorter.
        declared: What its server says, with or without parameters.
        kind: `image`, `video`, `audio` or `file`, as the state says; decides for containers of both, where
            the server says nothing.
    """
    possible = _types_of(head)
    stated = (declared or "").partition(";")[0].strip().lower()
    stated_kind = stated.partition("/")[0]
    if stated in _SAYS_NOTHING:
        stated_kind = kind if kind in _KINDS else possible[0].partition("/")[0] if possible else ""
    elif stated_kind not in _KINDS:
        return _DOWNLOAD
    # `image/png` of a JPEG is common and harmless: within a kind, the bytes name the type.
    name = next((one for one in possible if one.partition("/")[0] == stated_kind), None)
    if name is None and stated in _SAYS_NOTHING and possible:
        name = possible[0]
    return _DOWNLOAD if name is None else MediaType(name, _EXTENSIONS[name])


def _types_of(head: bytes) -> tuple[str, ...]:
    """What the bytes can be; several types where a container holds video or only audio."""
    if head[4:8] == b"ftyp":
        return _iso_types(head)
    if head.startswith(b"\x1aE\xdf\xa3"):  # EBML
        return ("video/webm", "audio/webm") if b"webm" in head else ("video/x-matroska",)
    return next((types for pattern, types in _SIGNATURES if pattern.match(head)), ())


def _iso_types(head: bytes) -> tuple[str, ...]:
    brand = head[8:12]
    if brand in _ISO_IMAGES:
        return (_ISO_IMAGES[brand],)
    if brand == b"qt  ":
        return ("video/quicktime",)
    return ("audio/mp4", "video/mp4") if brand in (b"M4A ", b"M4B ") else ("video/mp4", "audio/mp4")


_SIGNATURES = tuple(
    (re.compile(pattern, re.DOTALL), types)
    for pattern, types in (
        (rb"\x89PNG\r\n\x1a\n", ("image/png",)),
        (rb"\xff\xd8\xff", ("image/jpeg",)),
        (rb"GIF8[79]a", ("image/gif",)),
        (rb"RIFF....WEBP", ("image/webp",)),
        (rb"BM.{4}\0\0\0\0", ("image/bmp",)),
        (rb"RIFF....WAVE", ("audio/wav",)),
        (rb"OggS", ("audio/ogg", "video/ogg")),
        (rb"fLaC", ("audio/flac",)),
        (rb"ID3[\x02-\x04]", ("audio/mpeg",)),
        (rb"\xff[\xf0\xf1\xf8\xf9]", ("audio/aac",)),
        # MPEG audio: the sync word, then neither a reserved version, layer, bit rate nor sampling rate.
        (rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xeb]", ("audio/mpeg",)),
    )
)
