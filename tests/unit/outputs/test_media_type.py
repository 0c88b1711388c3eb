"""What a page may show of a file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.outputs.media_type import media_type_of

FILES = {
    "image/png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "image/avif": b"\0\0\0\x20ftypavif",
    "image/bmp": b"BM\x10\0\0\0\0\0\0\0",
    "video/mp4": b"\0\0\0\x20ftypisom",
    "video/quicktime": b"\0\0\0\x14ftypqt  ",
    "video/webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm",
    "video/x-matroska": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska",
    "audio/mp4": b"\0\0\0\x20ftypM4A ",
    "audio/mpeg": b"ID3\x04\0\0",
    "audio/wav": b"RIFF\x10\0\0\0WAVEfmt ",
    "audio/flac": b"fLaC\0",
    "audio/aac": b"\xff\xf1\x50\x80",
    "audio/ogg": b"OggS\0",
}
HTML = b"<!doctype html><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("declared", [None, "", "application/octet-stream", "binary/octet-stream", "own"])
def test_the_bytes_of_each_type_are_known(name, declared):
    stated = f"{name.upper()}; charset=binary" if declared == "own" else declared
    media = media_type_of(FILES[name], stated)
    assert (media.name, media.shown) == (name, True)
    assert media.extension.startswith(".")


@pytest.mark.parametrize("declared", ["text/html", "image/svg+xml", "application/xml", "text/plain", "video"])
def test_what_is_declared_as_no_medium_is_saved(declared):
    for head in FILES.values():
        media = media_type_of(head, declared)
        assert media.shown is (declared == "image/svg+xml" and media.name.startswith("image/")) or (
            declared == "video" and media.name.startswith("video/")
        )


@pytest.mark.parametrize("head", [HTML, SVG, b"<?xml version='1.0'?>", b"%PDF-1.7", b"PK\3\4", b"", b"\xff"])
@pytest.mark.parametrize("declared", [None, "image/png", "video/mp4", "text/html", "image/svg+xml"])
def test_what_is_no_medium_is_saved_whatever_it_calls_itself(head, declared):
    media = media_type_of(head, declared, "image")
    assert (media.name, media.extension, media.shown) == ("application/octet-stream", "", False)


def test_within_a_kind_the_bytes_decide_and_across_kinds_it_is_a_lie():
    assert media_type_of(FILES["image/jpeg"], "image/png").name == "image/jpeg"
    assert not media_type_of(FILES["image/jpeg"], "video/mp4").shown
    assert media_type_of(FILES["video/mp4"], "audio/x-m4a").name == "audio/mp4"


def test_the_state_decides_for_containers_of_both():
    assert media_type_of(FILES["video/webm"], None, "audio").name == "audio/webm"
    assert media_type_of(FILES["audio/ogg"], "", "video").name == "video/ogg"
    assert media_type_of(FILES["image/png"], None, "video").name == "image/png"


@given(
    st.binary(max_size=80), st.text(max_size=40), st.sampled_from(["image", "video", "audio", "file", None])
)
def test_anything_is_a_known_type_or_a_download(head, declared, kind):
    media = media_type_of(head, declared, kind)
    assert media.name in {
        *FILES,
        "application/octet-stream",
        "image/heic",
        "image/heif",
        "audio/webm",
        "video/ogg",
    }
