"""The type of a result (image, video, audio), from its key, its name or its first bytes."""

from __future__ import annotations

import binascii
import re
from urllib.parse import urlsplit

from bridge.dialects.words import fold

_HINTS = (
    ("video", ("video", "movie", "clip")),
    ("audio", ("audio", "music", "song", "voice", "speech")),
    ("image", ("image", "img", "picture", "photo", "cover", "thumbnail", "frame", "poster")),
)
_SUFFIXES = {
    "image": ("png", "jpg", "jpeg", "webp", "gif", "avif", "heic", "bmp", "tif", "tiff", "svg"),
    "video": ("mp4", "webm", "mov", "m4v", "mkv", "avi", "m3u8", "mpeg", "mpg"),
    "audio": ("mp3", "wav", "ogg", "oga", "opus", "flac", "m4a", "aac"),
}
_TYPE_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{4,}={0,2}")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+=-]+)*;base64,", re.IGNORECASE)
_SNIFFED = 128
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
    (b"%PDF-", "application/pdf"),
)
_BRANDS = {b"avif": "image/avif", b"heic": "image/heic", b"M4A ": "audio/mp4", b"qt  ": "video/quicktime"}
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}


def type_of_media(media_type: str | None) -> str | None:
    """`image`, `video` or `audio` of a media type such as `video/mp4`."""
    family, slash, _ = (media_type or "").partition("/")
    family = family.strip().lower()
    return family if slash and family in _SUFFIXES else None


def type_of_name(name: str | None) -> str | None:
    """The type that a key or a type field suggests: `video`, `image_urls`, `cover_url`, `video/mp4`."""
    folded = fold(name or "")
    for kind, hints in _HINTS:
        if any(hint in folded for hint in hints):
            return kind
    return "file" if folded == "file" else None


def type_of_url(url: str | None) -> str | None:
    """The type that the suffix of a link's path suggests."""
    try:
        path = urlsplit(url or "").path
    except ValueError:
        return None
    return _TYPE_OF_SUFFIX.get(path.rpartition(".")[2].lower())


def is_data_url(text: str) -> bool:
    """Whether a text has its content in itself instead of leading to it."""
    return text[:_SNIFFED].lstrip()[:5].lower() == "data:"


def split_data(text: str) -> tuple[str, str | None] | None:
    """Base64 text and its media type, from plain base64 or a `data:` URL; None when it is neither."""
    match = _DATA_URL.match(text)
    data = text[match.end() :] if match else text
    head = "".join(data[: _SNIFFED * 2].split())
    if not _BASE64.fullmatch(head):
        return None
    return data, (match[1].lower() if match and match[1] else sniff(head))


def sniff(base64_head: str) -> str | None:
    """The media type by the first bytes, None if unknown."""
    head = base64_head.translate({ord("-"): "+", ord("_"): "/"}).rstrip("=")[:_SNIFFED]
    try:
        start = binascii.a2b_base64(head[: len(head) // 4 * 4])
    except binascii.Error:
        return None
    if start[4:8] == b"ftyp":
        return _BRANDS.get(start[8:12], "video/mp4")
    if start[:4] == b"RIFF":
        return _RIFF.get(start[8:12])
    return next((media for signature, media in _SIGNATURES if start.startswith(signature)), None)
