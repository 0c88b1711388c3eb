"""A request to a provider's own path is the call whose template made it, with the same values."""

import string
from urllib.parse import quote, urlsplit

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bridge.core.task import check_task_id, climbs
from bridge.dialects.base import ProxyMatch, Submission
from bridge.dialects.registry import load_preset, load_text, preset_names
from bridge.errors import ConfigError, InvalidRequest

PRESETS = {name: load_preset(name) for name in preset_names()}
SERVED = {name for name, one in PRESETS.items() if one.rules.stream.documents}

plain_ids = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=30)
wild_ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30)


def own(dialect, request):
    """A request as a client makes it that speaks to the provider itself."""
    base = request.base_url or dialect.base_url
    path, _, query = request.path.partition("?")
    return request.method, urlsplit(base).path.rstrip("/") + path, query, request.body or b""


def ids_of(name):
    """Ids of every shape a preset has, from the values its places take."""
    shape = {
        "fal": st.builds("{}/{}/{}".format, st.just("fal-ai"), st.just("flux"), plain_ids),
        "kling": st.builds("videos/text2video/{}".format, plain_ids),
        "runpod": st.builds("{}/{}".format, plain_ids, plain_ids),
        "stability": st.builds("{}/{}".format, st.sampled_from(["image-to-video", "results"]), plain_ids),
        "bfl": st.builds("api.bfl.ai/{}".format, plain_ids),
        "veo": st.builds("models/veo-3/operations/{}".format, plain_ids),
        "kie": plain_ids | st.builds("veo/record-info/{}".format, plain_ids),
    }
    return shape.get(name, wild_ids)


@pytest.mark.parametrize(
    ("name", "call"),
    [(name, call) for name in sorted(PRESETS) for call in ("status", "cancel")]
    + [(name, "stream") for name in sorted(SERVED)],
)
@given(data=st.data())
def test_a_call_about_a_task_matches_back_to_its_id(name, call, data):
    dialect = PRESETS[name]
    task_id = data.draw(ids_of(name))
    try:
        request = getattr(dialect, f"{call}_request")(task_id)
    except InvalidRequest:
        assume(False)
    if request is None or (call == "stream" and name not in SERVED):
        return
    asked = dialect.match(*own(dialect, request))
    assert asked == ProxyMatch(call=call, task_id=check_task_id(task_id))


@pytest.mark.parametrize("task_id", [".?", ".;a", "...", "a.", ".%25", "%25!", "a?/.b"])
def test_dots_beside_another_character_are_an_id(task_id):
    for name in ("dashscope", "qingbo", "replicate", "runway"):
        request = PRESETS[name].status_request(task_id)
        assert PRESETS[name].match(*own(PRESETS[name], request)) == ProxyMatch(call="status", task_id=task_id)


@pytest.mark.parametrize(
    "task_id",
    [".", "..", "a/../b", "%2e", "%2E%2e", ".%2e", "%252e%252E", "a%2f..%2fb", "a%252f%2e", "a\\b", "%5c"],
)
def test_an_id_that_names_another_resource_for_some_server_is_not_asked_for(task_id):
    for name in ("dashscope", "qingbo", "replicate", "runway"):
        with pytest.raises(InvalidRequest):
            PRESETS[name].status_request(task_id)
        path = urlsplit(PRESETS[name].status_request("ID").path).path.replace("ID", quote(task_id, safe=""))
        base = urlsplit(PRESETS[name].base_url).path.rstrip("/")
        with pytest.raises(InvalidRequest):
            PRESETS[name].match("GET", base + path, "", b"")


@given(alias=wild_ids)
def test_an_alias_call_matches_back_to_the_alias(alias):
    dialect = PRESETS["bytespike"]
    assume(not climbs(alias))
    request = dialect.alias_request(alias)
    assert dialect.match(*own(dialect, request)) == ProxyMatch(call="alias", alias=alias)


OPTIONS = {
    "bfl": {"model": "flux-2-pro"},
    "dashscope": {"endpoint": "video-generation/video-synthesis"},
    "fal": {"endpoint": "fal-ai/flux/dev", "fal_webhook": "https://me.example/cb?a=1"},
    "kling": {"endpoint": "videos/text2video"},
    "luma": {"endpoint": "generations/image"},
    "minimax-v2": {"endpoint": "video_generation"},
    "replicate": {"endpoint": "models/a/b/predictions"},
    "runpod": {"endpoint": "whisper"},
    "runway": {"endpoint": "image_to_video"},
    "stability": {"endpoint": "stable-image/upscale/creative"},
    "vapi": {"endpoint": "minimax/v1/video_generation"},
    "veo": {"model": "veo-3.1"},
    "vidu": {"endpoint": "img2video"},
    "wavespeed": {"model": "wavespeed-ai/flux-dev"},
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_submit_matches_back_to_its_options(name):
    dialect, options = PRESETS[name], OPTIONS.get(name, {})
    request = dialect.submit_request(Submission(body=b"{}", options=options))
    if request is not None:
        assert dialect.match(*own(dialect, request)) == ProxyMatch(call="submit", options=options)


@pytest.mark.parametrize("name", sorted(OPTIONS))
@pytest.mark.parametrize("value", ["..", "../x", "a/../b", "http://evil.example/x", "a b/c", "x" * 3000])
def test_a_place_takes_only_what_a_submit_would(name, value):
    dialect = PRESETS[name]
    place = next(iter(OPTIONS[name]))
    request = dialect.submit_request(Submission(body=b"{}", options=OPTIONS[name]))
    method, path, query, body = own(dialect, request)
    try:
        assert dialect.match(method, path.replace(OPTIONS[name][place], value), query, body) is None
    except InvalidRequest:
        assert ".." in value


def test_sync_is_no_task_and_no_submit():
    qingbo = PRESETS["qingbo"]
    assert qingbo.match("POST", "/v1/tasks/sync", "", b"{}") == ProxyMatch(call="sync")
    assert qingbo.match("POST", "/v1/tasks", "", b"{}") == ProxyMatch(call="submit")
    assert qingbo.match("GET", "/v1/tasks/sync", "", b"") == ProxyMatch(call="status", task_id="sync")


def test_what_the_provider_has_before_its_paths_is_part_of_them():
    responses = PRESETS["openai"]
    assert responses.match("GET", "/v1/responses/r1", "", b"") == ProxyMatch(call="status", task_id="r1")
    assert responses.match("GET", "/responses/r1", "", b"") is None
    assert responses.documented("/responses/r1") == "/v1/responses/r1"


def test_a_stream_nobody_can_imitate_is_nowhere_and_no_status():
    text = 'base_url = "https://x.example"\n[calls.status]\npath = "/t/{task_id}"\n[status]\nat = "s"\n'
    stream = '[calls.stream]\npath = "/t/{task_id}"\nquery = { stream = "true" }\n'
    dialect = load_text(text + stream, "acme")
    assert dialect.match("GET", "/t/r1", "stream=true", b"") is None
    made = '[proxy.events]\nname = "a.{status}"\nwrapper = "t"\nnumber = "n"\nafter = "from"\n'
    asked = load_text(text + stream + made, "acme").match("GET", "/t/r1", "stream=true", b"")
    assert asked == ProxyMatch(call="stream", task_id="r1")


def test_a_further_parameter_changes_no_status():
    asked = PRESETS["minimax"].match("GET", "/v1/query/video_generation", "task_id=7&_=1", b"")
    assert asked == ProxyMatch(call="status", task_id="7")


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"{}", b'{"task_id":null}', b'{"task_id":{}}'])
def test_a_body_that_names_no_task_is_the_callers_mistake(body):
    with pytest.raises(InvalidRequest):
        PRESETS["bytespike"].match("POST", "/v1/tasks/query", "", body)


@pytest.mark.parametrize("other", ['"o"', "7", "{}"])
def test_both_ids_at_once_are_the_callers_mistake_and_an_empty_one_is_none(other):
    bytespike = PRESETS["bytespike"]
    with pytest.raises(InvalidRequest):
        bytespike.match("POST", "/v1/tasks/query", "", b'{"task_id":"t","out_task_id":%b}' % other.encode())
    for nothing in (b"null", b'""'):
        body = b'{"task_id":"t","out_task_id":%b}' % nothing
        assert bytespike.match("POST", "/v1/tasks/query", "", body) == ProxyMatch(call="status", task_id="t")


def test_a_body_beside_a_path_must_name_the_same_task():
    vidu, path = PRESETS["vidu"], "/ent/v2/tasks/1/cancel"
    asked = ProxyMatch(call="cancel", task_id="1")
    assert vidu.match("POST", path, "", b"") == vidu.match("POST", path, "", b'{"id":"1"}') == asked
    with pytest.raises(InvalidRequest):
        vidu.match("POST", path, "", b'{"id":"2"}')


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/tasks", "//v1/tasks/x", "/v1/tasks/", "/v1%2Ftasks/x", "/v1/tasks/x/",
     "/v1/tasks/%FF", "/v1/tasks/%0A", "/v1/tasks/" + "x" * 1025],
)  # fmt: skip
def test_what_is_no_call_is_nowhere(path):
    assert PRESETS["qingbo"].match("GET", path, "", b"") is None


@given(
    st.sampled_from(sorted(PRESETS)),
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]),
    st.text("/v1tasksqueryid%2F.?:{}\x00é", max_size=60),
    st.text("=&stream=true%2", max_size=30),
    st.none() | st.binary(max_size=30),
)
def test_anything_at_all_is_a_call_or_none_or_a_mistake(name, method, path, query, body):
    dialect = PRESETS[name]
    try:
        asked = dialect.match(method, path, query, body)
    except InvalidRequest:
        return
    if asked is not None and asked.task_id is not None:
        dialect.status_request(asked.task_id)


def test_a_waiting_call_needs_a_submit():
    from bridge.errors import ConfigError

    text = """
base_url = "https://acme.example"
[calls.status]
path = "/{task_id}"
[calls.sync]
method = "POST"
path = "/sync"
[status]
at = "status"
words = { completed = "done" }
"""
    with pytest.raises(ConfigError, match=r"needs \[calls\.submit\]"):
        load_text(text, "acme")


SPIKE, VAPI, FAL = PRESETS["bytespike"], PRESETS["vapi"], PRESETS["fal"]


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (("GET", "/v1/tasks/query", "task_id=a", None), ProxyMatch(call="status", task_id="a")),
        (("GET", "/v1/tasks/query", "out_task_id=b", None), ProxyMatch(call="alias", alias="b")),
        (("GET", "/v1/tasks/query", "task_id=a&out_task_id=", None), ProxyMatch(call="status", task_id="a")),
        (("POST", "/v1/tasks/cancel", "", b'{"task_id":"a"}'), ProxyMatch(call="cancel", task_id="a")),
        (("POST", "/v1/tasks/cancel", "", b'{"out_task_id":"b"}'), ProxyMatch(call="cancel", alias="b")),
        (("POST", "/v1/tasks/cancel/a", "", b'{"task_id":"b"}'), ProxyMatch(call="cancel", task_id="a")),
    ],
)
def test_further_forms_of_a_call(request_, match):
    assert SPIKE.match(*request_) == match


@pytest.mark.parametrize(
    "request_",
    [
        ("GET", "/v1/tasks/query", "", b""),
        ("GET", "/v1/tasks/query", "task_id=a&out_task_id=b", b""),
        ("POST", "/v1/tasks/cancel", "", b""),
        ("POST", "/v1/tasks/cancel", "", b'{"task_id":"a","out_task_id":"b"}'),
        ("POST", "/v1/tasks/cancel", "", b'{"task_id":["a"]}'),
    ],
)
def test_a_form_that_names_no_task_or_two_is_refused(request_):
    with pytest.raises(InvalidRequest):
        SPIKE.match(*request_)


@given(task_id=plain_ids)
def test_a_result_call_matches_back_to_the_task_or_to_the_file(task_id):
    request = FAL.result_request(f"fal-ai/flux/{task_id}", {})
    assert FAL.match(*own(FAL, request)) == ProxyMatch(call="follow_up", task_id=f"fal-ai/flux/{task_id}")
    request = VAPI.result_request(None, {"file_id": task_id})
    asked = VAPI.match(*own(VAPI, request))
    assert (asked.call, asked.task_id, asked.options) == ("follow_up", None, {"file_id": task_id})
    document = orjson.dumps({"status": "Success", "task_id": "1", "file_id": task_id})
    assert VAPI.result_name(document) == VAPI.name_of(asked.options) == task_id


@pytest.mark.parametrize("document", [b"", b"{}", b"[]", b"x", b'{"file_id": {}}'])
def test_a_document_that_names_no_file(document):
    assert VAPI.result_name(document) is None
    assert FAL.result_name(document) is None


@pytest.mark.parametrize(
    ("path", "task_id"),
    [
        ("/api.eu1.bfl.ai/v1/get_result", "api.eu1.bfl.ai/x"),
        ("/v1/get_result", "api.bfl.ai/x"),
        ("/api.evil.example/v1/get_result", None),
        ("/api.eu1.bfl.ai.evil.example/v1/get_result", None),
        ("/api.eu1.bfl.ai%2Fx/v1/get_result", None),
    ],
)
def test_the_host_of_a_call_may_stand_before_its_path(path, task_id):
    match = PRESETS["bfl"].match("GET", path, "id=x", None)
    assert (match and match.task_id) == task_id


def test_a_further_form_needs_its_call():
    with pytest.raises(ConfigError, match=r"accepted\[0\]\.call: needs \[calls\.cancel\]"):
        load_text(
            'base_url="https://a.example"\ncalls.status.path="/{task_id}"\nstatus.at="s"\n'
            '[[accepted]]\ncall="cancel"\npath="/c/{task_id}"',
            "own",
        )


@pytest.mark.parametrize(
    ("preset", "method", "path", "meant"),
    [
        ("openai", "GET", "/responses/r1", "/v1/responses/r1"),
        ("openai", "GET", "/v1/v1/responses/r1", "/v1/responses/r1"),
        ("openai-videos", "GET", "/videos/video_1", "/v1/videos/video_1"),
        ("replicate", "GET", "/v1/v1/predictions/p1", "/v1/predictions/p1"),
        ("runway", "POST", "/v1/v1/image_to_video", "/v1/image_to_video"),
        ("qingbo", "POST", "/tasks", "/v1/tasks"),
        ("openai", "GET", "/models", None),
        ("openai", "GET", "/v1/models", None),
        ("openai", "GET", "", None),
        ("fal", "GET", "/health", None),
    ],
)
def test_a_base_url_that_lacks_or_repeats_the_first_segment_is_recognised(preset, method, path, meant):
    dialect = PRESETS[preset]
    assert dialect.match(method, path, "", b"{}") is None
    assert dialect.probable_path(method, path, "", b"{}") == meant


def test_a_path_that_is_too_long_means_nothing():
    assert all(
        dialect.probable_path("GET", "/v1/v1/" + "x" * 9000, "", b"") is None for dialect in PRESETS.values()
    )
