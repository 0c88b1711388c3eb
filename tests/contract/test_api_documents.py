"""The API documents are well-formed and match the code: routes, codes, messages, the state document.

`bridge/web/static/api/state.schema.json` is the one description of a state. It is held against states of
every shape here, and against what the running bridge answers in `test_schemathesis.py`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from starlette.routing import Route

from bridge import errors
from bridge.auth.authenticator import COOKIE, TICKET
from bridge.auth.caller import TokenScope
from bridge.auth.tickets import MAX_TICKET_SECONDS
from bridge.config.settings import Settings
from bridge.core.cursor import Cursor, EventId
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.merge import lost, merge, unknown
from bridge.core.resume import locate
from bridge.core.task import MAX_TASK_ID, Failure, Output, Source, State, Status, TaskKey
from bridge.delivery.longpoll import MAX_WAIT_SECONDS
from bridge.delivery.websocket import MAX_MESSAGE, REFUSED, SUBPROTOCOL, TOO_BIG
from bridge.dialects.media import type_of_name
from bridge.dialects.registry import load_preset, preset_names
from bridge.sources.upstream import UpstreamState
from bridge.web.routes import routes
from bridge.web.services import Services
from bridge.web.static_files import StaticFile, StaticFolder
from bridge.web.tasks import DEFAULT_TICKET_SECONDS
from bridge.wire.document import Include, document
from bridge.wire.formats import OpenAiFormat
from bridge.wire.frames import Frames, format_of
from tests.conftest import missing
from tests.contract.test_dialects import FILES, below, named, preset_of, recorded
from tests.fakes.tasks import EPOCH, TASK, WALL, event, state
from tests.fakes.writers import NDJSON, SOCKET, SSE

FOLDER = Path(__file__).parents[2] / "bridge" / "web" / "static" / "api"
TOOLS = Path(__file__).parents[1] / "tools"
REDOCLY = TOOLS / "node_modules" / "@redocly" / "cli" / "bin" / "cli.js"
SCHEMA = json.loads((FOLDER / "state.schema.json").read_text("utf-8"))
OPENAPI = yaml.safe_load((FOLDER / "openapi.yaml").read_text("utf-8"))
ASYNCAPI = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text("utf-8"))
MESSAGES = ASYNCAPI["components"]["messages"]
METHODS = {"get", "post", "put", "patch", "delete"}
# Only the inspector asks these; its page and the browser helper are files, and a file is no API.
PRIVATE = ("/inspector/",)
EVERYTHING = Include(raw=True, data=True)


def closed(schema):
    """The same schema for somebody who accepts nothing that it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {key: value if key == "examples" else closed(value) for key, value in schema.items()}
    return shut | ({"unevaluatedProperties": False} if isinstance(schema.get("properties"), dict) else {})


def resolved(documents):
    return Registry().with_resources(
        (name, Resource(contents, specification=DRAFT202012)) for name, contents in documents.items()
    )


REGISTRY = resolved({"state.schema.json": SCHEMA, "openapi.yaml": OPENAPI, "asyncapi.yaml": ASYNCAPI})
STRICT = Draft202012Validator(closed(SCHEMA))


@cache
def validator(where):
    """A validator of one place in a document, written `file#/pointer`."""
    return Draft202012Validator({"$ref": where}, registry=REGISTRY)


def checked(event, include=EVERYTHING):
    """What a client gets for an event, after the schema had its say."""
    told = orjson.loads(document(event, include=include, now=WALL))
    STRICT.validate(told)
    return told


# -- the state ---------------------------------------------------------------------------------------------


def test_the_schema_is_one_and_its_examples_are_states():
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(STRICT.schema)
    assert SCHEMA["examples"]
    for example in SCHEMA["examples"]:
        STRICT.validate(example)


def described(schema, path):
    for name, one in schema.get("properties", {}).items():
        target = SCHEMA["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else {}
        yield f"{path}.{name}", one.get("description") or target.get("description")
    for name, one in schema.get("$defs", {}).items():
        yield name, one["description"]
        yield from described(one, name)


def test_every_key_and_every_kind_of_value_is_described():
    told = dict(described(SCHEMA, "state"))
    assert len(told) >= 40
    assert [name for name, text in told.items() if not (text and text.endswith("."))] == []


def test_every_key_is_always_there_and_its_order_is_that_of_the_document():
    keys = list(checked(Event(TASK, Cursor(EPOCH, 0), unknown(unix_time=0.0))))
    assert keys == list(SCHEMA["properties"]) == SCHEMA["required"]


def test_the_words_are_those_of_the_code():
    kinds = SCHEMA["$defs"]
    assert kinds["Status"]["enum"] == [one.value for one in Status]
    assert kinds["Source"]["enum"] == [one.value for one in Source]
    types = kinds["Output"]["properties"]["type"]["enum"]
    assert {type_of_name(word) for word in types} == set(types)
    assert SCHEMA["properties"]["task_id"]["maxLength"] == MAX_TASK_ID
    assert SCHEMA["properties"]["task"]["maxLength"] == MAX_TASK_ID + len("/") + 32


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
positive = st.floats(0, 1e15) | st.integers(0, 10**15)
moments = st.floats(1, 1e11)
sides = st.none() | st.integers(1, 10**9)
outputs = st.builds(
    Output,
    type=st.sampled_from(["image", "video", "audio", "file"]),
    url=st.none() | texts,
    expires_at=st.none() | st.floats(1, 1e14),
    width=sides,
    height=sides,
    duration_seconds=st.none() | positive,
    file_id=st.none() | texts,
    data=st.none() | st.sampled_from(["", "QUJD", "QUI="]),
    media_type=st.none() | st.just("image/png"),
    stored_url=st.none() | texts,
)
states = st.builds(
    State,
    status=st.sampled_from(Status),
    upstream_status=st.none() | texts,
    alias=st.none() | texts,
    progress=st.none() | st.floats(0, 100),
    eta_at=st.none() | moments,
    eta_by=st.none() | moments,
    queue_position=st.none() | st.integers(0, 10**15),
    model=st.none() | texts,
    action=st.none() | texts,
    created_at=st.none() | st.floats(1, 1e14),
    completed_at=st.none() | st.floats(1, 1e14),
    outputs=st.lists(outputs, max_size=3).map(tuple),
    error=st.none() | st.builds(Failure, st.none() | texts, st.none() | texts),
    credits_used=st.none() | positive,
    credits_estimated=st.none() | positive,
    changed_at=moments,
    observed_at=moments,
    source=st.sampled_from(Source),
    raw=st.none() | st.sampled_from([b"{}", b'{"a": [1, null]}']),
    result=st.none() | st.sampled_from([b"{}", b"[1]"]),
)
task_ids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=MAX_TASK_ID)


@settings(deadline=None, derandomize=True)
@given(states, task_ids, st.builds(Include, st.booleans(), st.booleans()))
def test_every_state_the_bridge_can_hold_is_one_by_the_schema(known, task_id, include):
    checked(event(17, known, TaskKey("a" * 32, task_id)), include)


def observed():
    """What every recorded answer of a provider shows, by every call that shows a state."""
    for file in (*FILES, *below("submit"), *below("cancel")):
        case, answer = recorded(file)
        if isinstance(case["expect"].get("error"), str):
            continue
        yield named(file), load_preset(preset_of(file)), case.get("task_id"), answer


@pytest.mark.parametrize(
    ("dialect", "task_id", "answer"), [pytest.param(*rest, id=name) for name, *rest in observed()]
)
def test_every_recorded_answer_becomes_a_state_by_the_schema(dialect, task_id, answer):
    try:
        seen = dialect.read_status(answer, task_id).observation
    except errors.BridgeError:
        return  # the answer to a submit, which need not look like a status
    known = merge(None, seen, source=Source.POLL, unix_time=1_800_000_000.0)
    told = checked(event(1, known))
    assert told["status"] == seen.status
    assert len(told["outputs"]) == len(seen.outputs)
    checked(event(2, lost(known, Failure("not_found", "no"), unix_time=1_800_000_001.0)))


def test_recordings_of_every_preset_were_looked_at():
    read = [name for name, dialect, task_id, answer in observed() if shows(dialect, task_id, answer)]
    assert {name.partition("/")[0] for name in read} == set(preset_names())
    assert len(read) > 200


def shows(dialect, task_id, answer):
    try:
        return dialect.read_status(answer, task_id).observation is not None
    except errors.BridgeError:
        return False


@pytest.mark.parametrize("key", SCHEMA["required"])
def test_a_state_without_a_key_or_with_a_wrong_value_is_none(key):
    (example,) = SCHEMA["examples"]
    lacking = {name: value for name, value in example.items() if name != key}
    assert not STRICT.is_valid(lacking)
    for wrong in (True, "text", 7) if key == "raw" else (True, [3], {"strange": 1}):
        assert not STRICT.is_valid(example | {key: wrong}), wrong
    assert not STRICT.is_valid(example | {"strange": 1}), "what we send has no other keys"
    assert Draft202012Validator(SCHEMA).is_valid(example | {"strange": 1}), "clients must bear new ones"


# -- well-formed -------------------------------------------------------------------------------------------


def lint(path):
    """What the linter says. Of the schema of a state it expects an older draft; that is checked above."""
    if shutil.which("node") is None or not REDOCLY.is_file():
        missing("@redocly/cli (make tools)")
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    command = ["node", REDOCLY, "lint", "--config", TOOLS / "redocly.yaml", "--format", "json", path.name]
    done = subprocess.run(
        command, cwd=path.parent, env=os.environ | quiet, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("{"), done.stderr
    said = json.loads(done.stdout)["problems"]
    return [
        f"{one['ruleId']}: {one['message']} {one['location'][0].get('pointer')}"
        for one in said
        if one["location"][0]["source"]["ref"] != "state.schema.json"
    ]


@pytest.mark.parametrize("name", ["openapi.yaml", "asyncapi.yaml"])
def test_the_documents_are_clean(name):
    assert lint(FOLDER / name) == []


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("openapi.yaml", "        - bearer: []", "        - barer: []"),
        ("asyncapi.yaml", "address: /v1/ws", "adress: /v1/ws"),
    ],
)
def test_the_linter_would_find_it(name, right, wrong, tmp_path):
    for file in FOLDER.iterdir():
        shutil.copy(file, tmp_path)
    broken = (FOLDER / name).read_text("utf-8").replace(right, wrong, 1)
    (tmp_path / name).write_text(broken)
    assert broken != (FOLDER / name).read_text("utf-8")
    assert lint(tmp_path / name) != []


def test_openapi_is_valid_by_its_own_schema_too():
    validate(OPENAPI, base_uri=(FOLDER / "openapi.yaml").as_uri())
    broken = copy.deepcopy(OPENAPI)
    del broken["paths"]["/livez"]["get"]["responses"]["200"]["description"]
    with pytest.raises(Exception, match="description"):
        validate(broken, base_uri=(FOLDER / "openapi.yaml").as_uri())


def places(value, name, path=""):
    """Every place in a document, with its pointer."""
    yield path, value
    if isinstance(value, dict):
        for key, one in value.items():
            yield from places(one, name, f"{path}/{key.replace('~', '~0').replace('/', '~1')}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from places(one, name, f"{path}/{number}")


@pytest.mark.parametrize(("name", "contents"), [("openapi.yaml", OPENAPI), ("asyncapi.yaml", ASYNCAPI)])
def test_every_reference_leads_somewhere(name, contents):
    refs = {one for path, one in places(contents, name) if path.endswith("/$ref")}
    assert "state.schema.json" in refs
    for ref in refs:
        REGISTRY.resolver(base_uri=name).lookup(ref)


def test_every_example_of_a_message_is_one():
    shown = 0
    for name, one in MESSAGES.items():
        for example in one.get("examples", []):
            validator(f"asyncapi.yaml#/components/messages/{name}/payload").validate(example["payload"])
            shown += 1
    assert shown >= 12


# -- equal to the code -------------------------------------------------------------------------------------


def served():
    """Every route with its methods, as the application has them."""
    services = dict.fromkeys(Services.__dataclass_fields__)
    services["settings"] = SimpleNamespace(inspector=False, private_hosts=(), webhook_hosts=(), auth="none")
    services["clock"] = SimpleNamespace(time=lambda: 0.0)
    for route in routes(Services(**services)):
        path = re.sub(r":\w+}", "}", route.path)
        methods = route.methods - {"HEAD"} if isinstance(route, Route) else ["GET"]
        keeper = getattr(route.endpoint, "__self__", None)
        yield from ((method, path, keeper) for method in sorted(methods))


def operations():
    for path, item in OPENAPI["paths"].items():
        yield from ((method.upper(), path, item[method]) for method in item.keys() & METHODS)


def test_the_routes_are_those_of_the_application():
    documented = {(method, path) for method, path, _ in operations()}
    everything = {(method, path) for method, path, _ in served()}
    files = {
        (method, path) for method, path, keeper in served() if isinstance(keeper, StaticFile | StaticFolder)
    }
    api = {one for one in everything - files if not one[1].startswith(PRIVATE)}
    assert documented <= everything
    assert api <= documented
    assert {path for _, path in documented & files} == {
        "/openapi.yaml",
        "/openapi.json",
        "/asyncapi.yaml",
        "/state.schema.json",
    }


def test_path_parameters_are_those_of_the_path():
    for path, item in OPENAPI["paths"].items():
        stated = [
            OPENAPI["components"]["parameters"].get(one.get("$ref", "").rpartition("/")[2], one)
            for one in item.get("parameters", [])
        ]
        assert [one["name"] for one in stated] == re.findall(r"{(\w+)}", path)


def error_codes():
    """Every code of a problem document with its HTTP status."""
    kinds = (one for one in vars(errors).values() if isinstance(one, type))
    return {
        (kind.code, kind.status)
        for kind in kinds
        if issubclass(kind, errors.BridgeError) and kind is not errors.ConfigError
    }


def documented_codes():
    for method, path, operation in operations():
        for status, answer in operation["responses"].items():
            named = answer.get("$ref", "").rpartition("/")[2]
            problem = (
                OPENAPI["components"]["responses"]
                .get(named, {})
                .get("content", {})
                .get("application/problem+json")
            )
            if problem and "allOf" in problem["schema"]:
                for code in problem["schema"]["allOf"][1]["properties"]["code"]["enum"]:
                    yield (code, int(status)), (method, path)


def test_every_problem_code_stands_under_its_status_and_no_other_does():
    found = {code for code, _ in documented_codes()}
    apart = {("method_not_allowed", 405)}  # no operation has it: it is about those that are not
    assert found | apart == error_codes() | {("invalid_request", 408)}
    everything = OPENAPI["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert sorted(everything) == sorted({code for code, _ in error_codes()})


def test_every_operation_that_asks_for_a_credential_says_how_it_refuses():
    for method, path, operation in operations():
        if not operation.get("security", OPENAPI["security"]) or path.startswith("/proxy/"):
            continue
        assert {"401", "403"} <= operation["responses"].keys(), (method, path)


def test_credentials_are_where_the_code_looks_for_them():
    ways = OPENAPI["components"]["securitySchemes"]
    assert (ways["cookie"]["name"], ways["ticket"]["name"]) == (COOKIE, TICKET)
    assert all(scope.value in ways["bearer"]["description"] for scope in TokenScope)
    other = ASYNCAPI["components"]["securitySchemes"]
    assert {name: one.get("name") for name, one in other.items()} == {
        name: one.get("name") for name, one in ways.items()
    }
    with_ticket = {
        path for _, path, one in operations() if {"ticket": []} in one.get("security", OPENAPI["security"])
    }
    files = "/v1/tasks/{upstream}/{task_id}/outputs/{n}"
    assert with_ticket == {"/v1/ws", "/v1/events", "/v1/tasks/{upstream}/{task_id}/events", files}


def test_numbers_are_those_of_the_code():
    kinds = OPENAPI["components"]["schemas"]
    most = Settings.model_fields["max_tasks_per_connection"].default
    assert kinds["TaskList"]["properties"]["tasks"]["maxItems"] == most
    assert ASYNCAPI["components"]["schemas"]["Tasks"]["maxItems"] == most
    seconds = kinds["TicketOrder"]["properties"]["seconds"]
    assert (seconds["maximum"], seconds["default"]) == (MAX_TICKET_SECONDS, DEFAULT_TICKET_SECONDS)
    assert OPENAPI["components"]["parameters"]["task_id"]["schema"]["maxLength"] == MAX_TASK_ID
    (prefer,) = (
        one
        for one in OPENAPI["paths"]["/v1/tasks/{upstream}/{task_id}"]["get"]["parameters"]
        if one.get("name") == "Prefer"
    )
    assert f"(at most {MAX_WAIT_SECONDS})" in prefer["description"]
    assert f"{MAX_MESSAGE // 1024} KiB" in ASYNCAPI["channels"]["socket"]["description"]
    assert kinds["UpstreamCondition"]["properties"]["state"]["enum"] == [one.value for one in UpstreamState]


def test_every_path_of_a_provider_that_is_shown_is_one_of_its_calls():
    _, path = OPENAPI["paths"]["/proxy/{upstream}/{path}"]["parameters"]
    for name, example in path["examples"].items():
        asked = load_preset(name).match("GET", f"/{example['value']}", "", b"")
        assert asked is not None, name
        assert asked.call in {"status", "stream"}


def test_both_documents_say_the_same_of_the_same():
    assert (
        OPENAPI["components"]["schemas"]["TaskRef"]["pattern"]
        == ASYNCAPI["components"]["schemas"]["TaskRef"]["pattern"]
    )
    assert {one["address"] for one in ASYNCAPI["channels"].values()} <= OPENAPI["paths"].keys()
    assert SUBPROTOCOL in ASYNCAPI["channels"]["socket"]["title"]
    assert OPENAPI["info"]["version"] == ASYNCAPI["info"]["version"]


def kind(name):
    return ASYNCAPI["components"]["schemas"][name]["properties"]


def test_codes_and_reasons_of_messages_are_those_of_the_code():
    assert kind("Notice")["code"]["enum"] == [one.value for one in NoticeCode]
    assert kind("Notice")["reason"]["enum"] == [one.value for one in Closing]
    assert kind("Done")["status"]["enum"] == [one.value for one in Status if one.final]
    tokens = ["not a cursor", "other-1", "epoch-9"]
    reasons = [locate(token, None, epoch="epoch", head=1).reset_reason for token in tokens]
    assert kind("Reset")["reason"]["enum"] == list(dict.fromkeys(reasons))
    problems = {code for code, _ in error_codes()}
    assert set(MESSAGES["error"]["payload"]["properties"]["code"]["enum"]) <= problems


def test_close_codes_are_those_of_the_code():
    stated = {one["code"]: one for one in ASYNCAPI["channels"]["socket"]["x-close-codes"]}
    ours = {closing.websocket_code: closing.value for closing in Closing}
    assert {code: one["reason"] for code, one in stated.items() if code in ours} == ours
    assert stated.keys() - ours.keys() == {REFUSED, TOO_BIG, 1011}
    back = {code: one["reconnect"] for code, one in stated.items()}
    assert all(back[code] == "yes" for code in (1011, 1012, 4001, 4002))
    assert all(back[code] == "no" for code in (1000, 1001, REFUSED, TOO_BIG))


# -- what leaves on connections ----------------------------------------------------------------------------


def frames(form):
    """Everything the encoder can say in one form."""
    for one in Status:
        yield Frames(event(3, state(one, 50.0))).payload_for(form, now=WALL)
    yield form.group_done("nightly", {"completed": 2, "failed": 1}, EventId(Cursor(EPOCH, 3), "abcdefgh"))
    yield form.end(2)
    for token in ("not a cursor", "other-1", "epoch-9"):
        yield form.reset(locate(token, None, epoch="epoch", head=1).reset_reason, retry=1000)
    for code in NoticeCode:
        if code is not NoticeCode.CLOSING:
            yield form.notice(TASK, Notice(code, "a sentence", retriable=False))
    for closing in Closing:
        yield form.closing(closing, retry=2000)


def payload(name):
    return validator(f"asyncapi.yaml#/components/messages/{name}/payload")


def state_payload(name):
    return validator(f"asyncapi.yaml#/components/messages/{name}/payload/schema")


def blocks(stream):
    for block in stream.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        yield fields.get("event"), json.loads(fields["data"])


def test_every_event_is_a_message():
    said = set()
    for name, data in blocks(b"".join(frames(SSE))):
        (state_payload("state") if name is None else payload(name)).validate(data)
        said.add(name or "state")
    assert said == ASYNCAPI["channels"]["events"]["messages"].keys()
    assert all(MESSAGES[name].get("name") == (None if name == "state" else name) for name in said)


def test_every_line_is_a_message():
    said = set()
    for line in b"".join(frames(NDJSON)).splitlines():
        data = json.loads(line)
        name = data.pop("event", None)
        (state_payload("state") if name is None else payload(name)).validate(data)
        said.add(name or "state")
    assert said == ASYNCAPI["channels"]["events"]["messages"].keys()


OF_TYPE = {
    "state": "socketState",
    "done": "socketDone",
    "notice": "socketNotice",
    "reset": "socketReset",
    "group_done": "socketGroupDone",
}


def message_of(data):
    name = OF_TYPE.get(data["type"], data["type"])
    return state_payload(name) if data["type"] == "state" else payload(name)


def test_every_message_of_a_socket_is_one():
    said = set()
    for line in b"".join(frames(SOCKET)).splitlines():
        data = json.loads(line)
        message_of(data).validate(data)
        said.add(data["type"])
    assert said == OF_TYPE.keys()


def test_a_message_that_is_none_is_found():
    assert not payload("notice").is_valid(
        {"code": "closing", "task": None, "retriable": True, "message": "x"}
    )
    assert not payload("done").is_valid({"task": "qingbo/1", "status": "queued"})
    assert not state_payload("socketState").is_valid({"type": "state", "cursor": "a-1", "state": {}})


def test_in_the_openai_format_a_state_is_the_same_document():
    frame = Frames(event(3, state("processing", 50.0))).payload_for(format_of(OpenAiFormat), now=WALL)
    ((_, data),) = blocks(frame)
    STRICT.validate(data["task"])
