"""Links to a provider's API lead to the bridge, or are left out; everything else stays as it came."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.registry import load_preset, load_text, preset_names

PRESETS = {name: load_preset(name) for name in preset_names()}
BRIDGE = "https://bridge.example"

texts = st.text(max_size=20)
links = st.sampled_from(
    [
        "https://cdn.example/a.png",
        "http://other.example/v1/tasks/1",
        "//cdn.example/x",
        "/files/a.png",
        "mailto:a@b.example",
        "https://[::1",
        "https://queue.fal.run.evil.example/x",
        "gs://bucket/a.mp4",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | texts | links
documents = st.dictionaries(
    texts,
    st.recursive(scalars, lambda below: st.lists(below) | st.dictionaries(texts, below), max_leaves=20),
    max_size=5,
)


def rewritten(name, document, *, called=None, files=(), **more):
    dialect = PRESETS[name]
    rewriter = dialect.link_rewriter(called or dialect.base_url, f"{BRIDGE}/proxy/{name}", **more)
    return json.loads(rewriter.rewrite(json.dumps(document).encode(), files=files))


@given(document=documents, name=st.sampled_from(sorted(PRESETS)))
def test_a_document_without_a_link_to_the_api_stays_to_the_byte(document, name):
    dialect = PRESETS[name]
    body = json.dumps(document, indent=1).encode()
    assert dialect.link_rewriter(dialect.base_url, f"{BRIDGE}/proxy/{name}").rewrite(body) == body


@given(
    document=documents,
    name=st.sampled_from(sorted(PRESETS)),
    path=st.text("abc/.%?#=&:@ ", max_size=20),
    scheme=st.sampled_from(["https", "HTTP", "wss"]),
    key=texts,
)
def test_no_link_to_the_providers_host_is_left(document, name, path, scheme, key):
    host = PRESETS[name].base_url.split("/")[2]
    for written in (host, host.upper(), f"{host}:443", f"{host}.", f"user@{host}"):
        link = f"{scheme}://{written}/{path}"
        shown = json.dumps(rewritten(name, {**document, key: [{"deep": link}, link]})).lower()
        assert f"://{host}" not in shown.replace(f"{host}.evil.example", "")
        assert f"@{host}" not in shown


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_link_of_every_call_is_one_that_the_bridge_serves(name):
    dialect = PRESETS[name]
    task_id = {
        "fal": "fal-ai/flux/r1",
        "kling": "videos/text2video/1",
        "runpod": "endpoint/1",
        "stability": "image-to-video/1",
        "bfl": "api.eu1.bfl.ai/1",
        "veo": "models/veo-3/operations/1",
    }.get(name, "task-1")
    for call in ("status", "cancel"):
        request = getattr(dialect, f"{call}_request")(task_id)
        if request is None:
            continue
        base = request.base_url or dialect.base_url
        shown = rewritten(name, {"x": base + request.path})["x"]
        assert shown.startswith(f"{BRIDGE}/proxy/{name}/")
        path, _, query = shown.removeprefix(f"{BRIDGE}/proxy/{name}").partition("?")
        match = dialect.match(request.method, path, query, request.body)
        assert (match.call, match.task_id) == (call, task_id)
        assert rewritten(name, {"x": shown}) == {"x": shown}  # once more changes nothing


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("https://api.replicate.com/v1/predictions/a", "/v1/predictions/a"),
        ("http://API.Replicate.COM:80/v1/predictions/a?x=1", "/v1/predictions/a?x=1"),
        ("https:\\/\\/api.replicate.com\\/v1\\/predictions\\/a", None),
        ("http://10.0.0.1:8000/gw/v1/predictions/a", "/v1/predictions/a"),
        ("http://10.0.0.1:8000/v1/predictions/a", "/v1/predictions/a"),
        (" https://api.replicate.com/v1/predictions/a\n", "/v1/predictions/a"),
    ],
)
def test_spellings_of_a_link(link, shown):
    called = "http://10.0.0.1:8000/gw"
    body = b'{"urls": {"get": "%b"}}' % link.replace("\n", "\\n").encode()
    rewriter = PRESETS["replicate"].link_rewriter(called, f"{BRIDGE}/proxy/replicate")
    got = json.loads(rewriter.rewrite(body))["urls"].get("get")
    assert got == f"{BRIDGE}/proxy/replicate{shown or '/v1/predictions/a'}"


@pytest.mark.parametrize(
    "link",
    [
        "https://replicate.delivery/x/out",
        "https://replicate.com/p/a",
        "http://10.0.0.1:9000/files/a",  # another server behind the same address
        "https://api.replicate.com/v1/files/a.mp4",  # a file wherever it is
        "the page https://api.replicate.com/v1/x",
    ],
)
def test_links_that_stay(link):
    assert rewritten("replicate", {"output": [link]}, called="http://10.0.0.1:8000") == {"output": [link]}


def test_a_result_at_the_providers_own_host_stays_and_any_other_link_there_goes():
    link = "https://www.qingbo.dev/v1/files/9"
    document = {"result": {"videos": [{"url": link}]}, "help": "https://www.qingbo.dev/v1/help"}
    assert rewritten("qingbo", document, files=[link]) == {"result": {"videos": [{"url": link}]}}


def test_files_of_bfl_are_below_the_same_wildcard_as_its_api():
    document = {
        "sample": "https://delivery-eu1.bfl.ai/r/x?sig=1",
        "more": "https://api.us1.bfl.ai/v1/credits",
    }
    assert rewritten("bfl", document) == {"sample": "https://delivery-eu1.bfl.ai/r/x?sig=1"}


def test_relative_links_stay_relative_and_words_stay_words():
    document = {"poll_url": "/v1/tasks/a", "note": "/v1/tasks/a", "file_url": "/files/a.png"}
    assert rewritten("qingbo", document) == {**document, "poll_url": "/proxy/qingbo/v1/tasks/a"}


def test_links_in_a_document_within_a_text():
    inner = json.dumps({"get": "https://www.qingbo.dev/v1/tasks/a", "n": 1})
    shown = json.loads(rewritten("qingbo", {"data": inner})["data"])
    assert shown == {"get": f"{BRIDGE}/proxy/qingbo/v1/tasks/a", "n": 1}


def test_the_bridges_own_callback_address_is_left_out():
    document = {"webhook": f"{BRIDGE}/v1/callbacks/replicate/secret", "id": "a"}
    assert rewritten("replicate", document, secret_prefix=f"{BRIDGE}/v1/callbacks/") == {"id": "a"}


@pytest.mark.parametrize("body", [b"", b"https://queue.fal.run/x", b"[" * 100_000, b"\xff//", b'"//"'])
def test_a_body_that_is_no_document_stays(body):
    dialect = PRESETS["fal"]
    assert dialect.link_rewriter(dialect.base_url, BRIDGE).rewrite(body) == body


def test_a_lone_surrogate_and_a_large_number_stay_what_they_are():
    body = b'{"a": "\\ud800", "n": 123456789012345678901, "x": NaN, "u": "https://queue.fal.run/x"}'
    dialect = PRESETS["fal"]
    shown = dialect.link_rewriter(dialect.base_url, BRIDGE).rewrite(body)
    assert shown == b'{"a":"\\ud800","n":123456789012345678901,"x":NaN}'


def test_a_stream_that_the_bridge_does_not_serve_is_left_out():
    document = load_text(
        """
        base_url = "https://a.example"
        [calls.status]
        path = "/t/{task_id}"
        [calls.stream]
        path = "/t/{task_id}/events"
        [status]
        at = "status"
        """,
        "acme",
    )
    rewriter = document.link_rewriter(document.base_url, BRIDGE)
    body = b'{"a": "https://a.example/t/1", "b": "https://a.example/t/1/events"}'
    assert json.loads(rewriter.rewrite(body)) == {"a": f"{BRIDGE}/t/1"}
