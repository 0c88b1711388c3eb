import base64

import orjson
import pytest

from bridge.core.task import Output
from bridge.dialects.base import HttpResponse
from bridge.dialects.media import sniff, split_data, type_of_name, type_of_url
from bridge.dialects.outputs import MAX_OUTPUTS, complete
from bridge.dialects.registry import load_document

PNG = "iVBORw0KGgoAAAANSUhEUg=="


def read(body, *rules):
    document = {
        "base_url": "https://x.example",
        "calls": {"status": {"path": "/{task_id}"}},
        "status": {"at": "s"},
    }
    dialect = load_document({**document, "outputs": list(rules)}, "made-up")
    return dialect.read_status(HttpResponse(200, {}, body)).observation.outputs


def outputs(document, *rules):
    return read(orjson.dumps({"s": "x", **document}), *rules)


@pytest.mark.parametrize("url", ["https://a.example/x.MP4?sig=1", ["https://a.example/x.MP4?sig=1"]])
def test_a_link_may_be_a_text_or_a_list(url):
    assert outputs({"o": [{"url": url}]}, {"at": "o", "url": "url"}) == (
        Output(type="video", url="https://a.example/x.MP4?sig=1"),
    )


def test_the_type_comes_from_the_item_before_the_rule_before_the_suffix():
    rule = {"at": "o", "url": "url", "type_at": "type", "media_type": "mime", "type": "audio"}
    items = [
        {"url": "https://a.example/1.png", "type": "video"},
        {"url": "https://a.example/2.png", "mime": "image/webp"},
        {"url": "https://a.example/3.png"},
    ]
    assert [output.type for output in outputs({"o": items}, rule)] == ["video", "image", "audio"]


def test_one_link_is_one_output_however_many_rules_find_it():
    document = {"a": "https://a.example/1.png", "b": ["https://a.example/1.png", "https://a.example/2"]}
    found = outputs(document, {"at": "a"}, {"at": "b"})
    assert [(output.type, output.url) for output in found] == [
        ("image", "https://a.example/1.png"),
        ("file", "https://a.example/2"),
    ]


@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)",
        "javascript://x/%0aalert(1)",
        "/relative",
        "https://a b",
        "https://",
        "x" * 9000,
        5,
        None,
    ],
)
def test_what_is_no_link_is_no_output(value):
    assert outputs({"o": value}, {"at": "o"}) == ()


def test_base64_keeps_its_text_and_tells_its_type():
    found = outputs({"o": [PNG, "data:audio/mpeg;base64,SUQz", "?"]}, {"at": "o", "content": "base64"})
    assert [(output.type, output.media_type, output.data) for output in found] == [
        ("image", "image/png", PNG),
        ("audio", "audio/mpeg", "SUQz"),
    ]


def test_a_data_url_among_links_is_content():
    assert outputs({"o": f"data:image/png;base64,{PNG}"}, {"at": "o"}) == (
        Output(type="image", data=PNG, media_type="image/png"),
    )


@pytest.mark.parametrize("rule", [{"at": "o", "url": "url"}, {"at": "@", "content": "search"}])
def test_a_data_url_is_content_wherever_a_link_may_be(rule):
    document = {"o": [{"url": f" data:image/png;base64,{PNG}"}, {"url": "data:,none"}]}
    assert outputs(document, rule) == (Output(type="image", data=PNG, media_type="image/png"),)


def test_base64_in_an_item():
    assert outputs({"o": [{"b64_json": PNG}]}, {"at": "o", "data": "b64_json"})[0].media_type == "image/png"


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\x00\x00\x00\x20ftypisom", "video/mp4"),
        (b"\x00\x00\x00\x20ftypavif", "image/avif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "audio/wav"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xd8\xff\xe0\x00\x10", "image/jpeg"),
        (b"who knows", None),
    ],
)
def test_first_bytes_betray_the_type(start, media_type):
    assert sniff(base64.b64encode(start).decode()) == media_type


def test_a_search_finds_links_by_key_and_suffix():
    document = {
        "o": {"list": [{"cover_url": "https://a.example/c"}, "no link"], "video_url": "https://a.example/v"}
    }
    assert [(output.type, output.url) for output in outputs(document, {"at": "o", "content": "search"})] == [
        ("image", "https://a.example/c"),
        ("video", "https://a.example/v"),
    ]


def test_a_search_reaches_any_depth():
    deep = '{"s":"x","o":' + "[" * 1000 + '"https://a.example/v"' + "]" * 1000 + "}"
    found = read(deep.encode(), {"at": "o", "content": "search"})
    assert [output.url for output in found] == ["https://a.example/v"]


def test_the_number_of_outputs_is_bounded():
    assert len(outputs({"o": [f"https://a.example/{n}" for n in range(1000)]}, {"at": "o"})) == MAX_OUTPUTS


def test_a_link_takes_the_place_of_its_file_id_and_keeps_what_was_known():
    known = (
        Output(type="video", file_id="7", width=768),
        Output(type="image", url="https://a.example/c.png"),
    )
    added = (Output(type="file", url="https://a.example/v"),)
    assert complete(known, added) == (
        Output(type="image", url="https://a.example/c.png"),
        Output(type="video", url="https://a.example/v", file_id="7", width=768),
    )


def test_names_and_suffixes():
    assert [type_of_name(name) for name in ("image_urls", "VIDEO", "music", "file", "other", None)] == [
        "image",
        "video",
        "audio",
        "file",
        None,
        None,
    ]
    assert [type_of_url(url) for url in ("https://a/b.webp", "https://a/b", "https://[bad", None)] == [
        "image",
        None,
        None,
        None,
    ]
    assert split_data("") is None
