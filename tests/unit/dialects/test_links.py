"""What counts as a link to a result, and what to a result that nobody can fetch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Output, Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.outputs import LinkContext, foreign, link
from bridge.dialects.registry import load_preset, load_text

BASE = "https://api.acme.example/v1/tasks/7?key=k"
ACME = load_text(
    """
base_url = "https://api.acme.example/v1"
calls.status.path = "/tasks/{task_id}"
status.at = "state"
status.words = { processing = "running", completed = "ok", failed = "bad" }
status.result_unavailable = "gone"
outputs = [
  { at = "video", type = "video", url = ["url", "uri"], file_id = "id" },
  { at = "images", type = "image" },
  { at = "more", content = "search" },
]
""",
    "acme",
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://c.example/a.png", "https://c.example/a.png"),
        (" https://c.example/a.png\n", "https://c.example/a.png"),
        ("https://c.example/my cat.png", "https://c.example/my%20cat.png"),
        ('https://c.example/a"<b>.png', "https://c.example/a%22%3Cb%3E.png"),
        ("https://c.example/a%20b.png?sig=x y", "https://c.example/a%20b.png?sig=x%20y"),
        ("/files/a", "https://api.acme.example/files/a"),
        ("/files/my cat.png", "https://api.acme.example/files/my%20cat.png"),
        ("./a", "https://api.acme.example/v1/tasks/a"),
        ("../a", "https://api.acme.example/v1/a"),
        ("out/a.MP4", "https://api.acme.example/v1/tasks/out/a.MP4"),
        ("//cdn.example/a", "https://cdn.example/a"),
        ("pending", None),
        ("n/a", None),
        ("", None),
        ("javascript:alert(1).png", None),
        ("/a\nb.png", None),
        ("https://", None),
        ("http:///a.png", None),
        ("gs://bucket/a.png", None),
        ("/" + "a" * 9000, None),
        ("https://[::1/a b.png", None),
    ],
)
def test_a_text_at_the_place_of_a_link(text, url):
    assert link(text, BASE, LinkContext.URL) == url


@pytest.mark.parametrize(
    "text", ["/imagine a cat", "https://c.example/ is down today", "a cat.", "see a.png and b.png", "/help"]
)
def test_a_sentence_is_no_link(text):
    assert link(text, BASE) is link(text, BASE, LinkContext.SEARCH) is None


def test_without_the_address_of_the_answer_a_relative_link_is_none():
    assert link("/files/a.png", "", LinkContext.URL) is None
    assert link("https://c.example/a b.png", "", LinkContext.URL) == "https://c.example/a%20b.png"


@given(st.text(), st.sampled_from(LinkContext))
def test_any_text_is_an_http_link_or_none(text, place):
    url = link(text, BASE, place)
    assert url is None or (url.startswith(("http://", "https://", "HTTP")) and not set(' "<>') & set(url))
    assert url is None or foreign(url, place) is None


def seen(body, status=200):
    return ACME.read_status(HttpResponse(status, {}, body, BASE), "7").observation


def test_what_nobody_can_fetch_has_no_url_and_is_told():
    done = seen(b'{"state":"ok","video":{"url":"gs://b/v.mp4"},"more":{"x":"s3://b/c.png","y":"/f/d.png"}}')
    assert done.result_unavailable
    assert done.outputs == (
        Output(type="video", file_id="gs://b/v.mp4"),
        Output(type="image", file_id="s3://b/c.png"),
        Output(type="image", url="https://api.acme.example/f/d.png"),
    )


def test_a_link_that_can_be_fetched_wins_over_a_bucket():
    done = seen(b'{"state":"ok","video":{"url":"gs://b/v.mp4","uri":"/v"}}')
    assert [output.url for output in done.outputs] == ["https://api.acme.example/v"]
    assert not done.result_unavailable


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"state":"ok","video":{"url":""}}', True),
        (b'{"state":"ok","video":{"url":"expired"}}', True),
        (b'{"state":"ok","gone":true}', True),
        (b'{"state":"ok","gone":false}', False),
        (b'{"state":"ok","images":""}', True),
        (b'{"state":"ok","images":["",""]}', True),
        (b'{"state":"ok","images":["","word"]}', False),
        (b'{"state":"ok","images":[]}', False),
        (b'{"state":"ok","images":["https://c.example/a\\u0001.png"]}', True),
        (b'{"state":"ok","images":["https://c.example/' + b"a" * 9000 + b'"]}', True),
        (b'{"state":"ok","video":{"url":null}}', False),
        (b'{"state":"ok"}', False),
        (b'{"state":"ok","video":{"id":"7"}}', False),
        (b'{"state":"ok","video":{"id":"7","url":""}}', True),
        (b'{"state":"ok","video":{"url":""},"images":["/a.png"]}', False),
        (b'{"state":"running","video":{"url":""}}', False),
        (b'{"state":"bad","gone":true}', False),
    ],
)
def test_only_a_completed_task_whose_result_is_missing_is_told(body, told):
    assert seen(body).result_unavailable is told


def test_replicates_and_googles_ends_without_a_result_are_told():
    removed = b'{"id":"r","status":"succeeded","output":null,"data_removed":true}'
    assert load_preset("replicate").read_status(HttpResponse(200, {}, removed)).observation.result_unavailable
    empty = b'{"name":"models/veo/operations/1","done":true,"response":{"generateVideoResponse":{}}}'
    done = load_preset("veo").read_status(HttpResponse(200, {}, empty)).observation
    assert (done.status, done.outputs, done.result_unavailable) == (Status.COMPLETED, (), True)
