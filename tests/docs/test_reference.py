"""What the code has, the documentation names; read from the code, so that nothing new is forgotten."""

import json
import re
import runpy
from dataclasses import fields
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client import CollectorRegistry
from starlette.routing import Route

from bridge import errors
from bridge.auth.authenticator import COOKIE
from bridge.cli import main
from bridge.cli.watch import submit, watch
from bridge.config.load import CLIENT_VARIABLES
from bridge.config.settings import OutputSettings, Settings, UpstreamSettings, WebhookSettings
from bridge.core.cursor import Cursor
from bridge.core.event import Closing, Event, NoticeCode
from bridge.core.merge import unknown
from bridge.core.resume import locate
from bridge.core.task import Source, Status, TaskKey
from bridge.delivery.members import MAX_MEMBERS
from bridge.delivery.selected import OPENED
from bridge.delivery.websocket import MAX_SELECTIONS
from bridge.sources.upstream import UpstreamState
from bridge.telemetry.metrics import DELIVERIES, Metrics
from bridge.web.routes import routes
from bridge.web.services import Services
from bridge.wire.document import document
from tests.docs.pages import PAGES, ROOT, coded, prose, snippets
from tests.fakes.tasks import WALL

CONCEPTS = PAGES["docs/concepts.md"]
CONFIGURATION = PAGES["docs/configuration.md"]
ENDPOINTS = PAGES["docs/endpoints.md"]
METRICS = PAGES["docs/metrics.md"]
OPERATIONS = PAGES["docs/operations.md"]

GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_generated_tables_are_current():
    stale = [
        path.name
        for path in GENERATE["pages"]()
        if GENERATE["filled"](path.read_text("utf-8")) != path.read_text("utf-8")
    ]
    assert stale == [], "run `python docs/generate.py`"


def test_the_openapi_document_is_the_same_in_both_formats():
    stale = GENERATE["openapi_json"]() != (GENERATE["API"] / "openapi.json").read_bytes()
    assert not stale, "run `python docs/generate.py`"


@pytest.mark.parametrize("script", ["docs/addresses.py", "deploy/make_chart.py"])
def test_files_that_repeat_others_are_current(script):
    made = runpy.run_path(str(ROOT / script))["files"]()
    stale = [str(path.relative_to(ROOT)) for path, text in made.items() if path.read_text("utf-8") != text]
    assert stale == [], "run `make generate`"


def test_every_table_that_can_be_generated_stands_in_a_page():
    named = re.findall(r"<!-- generated: (\w+) -->", "".join(PAGES.values()))
    assert set(named) == set(GENERATE["TABLES"])


def test_every_setting_is_in_the_configuration_page():
    known = coded(CONFIGURATION)
    for name in Settings.model_fields:
        below = "__..." if name in ("outputs", "upstreams", "webhooks") else ""
        assert {name, f"BRIDGE_{name.upper()}{below}"} <= known
    for name in UpstreamSettings.model_fields:
        assert {name, f"BRIDGE_UPSTREAMS__NAME__{name.upper()}"} <= known
    for name in OutputSettings.model_fields:
        assert {name, f"BRIDGE_OUTPUTS__{name.upper()}"} <= known
    for name in WebhookSettings.model_fields:
        assert {name, f"BRIDGE_WEBHOOKS__NAME__{name.upper()}"} <= known


def test_every_setting_says_what_it_means():
    models = (Settings, OutputSettings, UpstreamSettings, WebhookSettings)
    assert [name for model in models for name, one in model.model_fields.items() if not one.description] == []


def test_every_variable_of_the_commands_is_in_the_configuration_page():
    assert coded(CONFIGURATION) >= CLIENT_VARIABLES


def test_every_command_is_in_the_configuration_page():
    named = {words.split()[1] for words in coded(CONFIGURATION) if words.startswith("taskbridge ")}
    assert named == set(main.list_commands(None))


@pytest.mark.parametrize("command", [watch, submit])
def test_every_option_of_the_client_commands_is_in_its_page(command):
    options = {option for one in command.params for option in one.opts if option.startswith("--")}
    page = " ".join(coded(PAGES["docs/client.md"]))
    assert [option for option in options if option not in page] == []


def metric_names():
    metrics = Metrics(CollectorRegistry(), ["qingbo"])
    metrics.report_certificate(lambda: 0.0)
    metrics.report_engine()
    for family in metrics.exposition(openmetrics=False).collect():
        yield f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("name", list(metric_names()))
def test_every_metric_says_how_to_read_it(name):
    assert re.search(rf"^- `{name}`: \S", METRICS, re.MULTILINE)


def test_the_metrics_page_names_no_metric_that_is_not_there():
    known = set(metric_names()) | {COOKIE}
    named = re.findall(r"\bbridge_[a-z_]+\b", re.sub(r"_bucket\b", "", "".join(PAGES.values())))
    assert set(named) - known == set()


def served():
    services = dict.fromkeys(one.name for one in fields(Services))
    services["settings"] = SimpleNamespace(
        inspector=True, auth="none", keepalive_seconds=15.0, private_hosts=(), webhook_hosts=()
    )
    services["clock"] = SimpleNamespace(time=lambda: 0.0)
    for route in routes(Services(**services)):
        path = re.sub(r":\w+}", "}", route.path)
        methods = sorted(route.methods - {"HEAD"}) if isinstance(route, Route) else ["GET"]
        yield from ((method, path) for method in methods)


@pytest.mark.parametrize(("method", "path"), list(served()))
def test_every_route_is_in_the_endpoints_page(method, path):
    assert f"{method} {path}" in " ".join(coded(ENDPOINTS))


def test_the_endpoints_page_names_no_route_that_is_not_there():
    named = set(re.findall(r"`(GET|POST|PUT|DELETE) (/[^\s`?]*)`", re.sub(r"`, `", "` `", ENDPOINTS)))
    named |= set(re.findall(r"(GET|POST) (/v1/[^\s`?,]*)", prose(ENDPOINTS)))
    assert named - set(served()) == set()


def error_codes():
    for value in vars(errors).values():
        if (
            isinstance(value, type)
            and issubclass(value, errors.BridgeError)
            and value is not errors.ConfigError
        ):
            yield value.code, value.status


@pytest.mark.parametrize(("code", "status"), sorted(set(error_codes())))
def test_every_error_code_is_in_the_endpoints_page(code, status):
    assert re.search(rf"^\| `{code}` \| {status} \|", ENDPOINTS, re.MULTILINE)


@pytest.mark.parametrize("code", list(NoticeCode))
def test_every_notice_is_explained(code):
    assert code.value in coded(ENDPOINTS)
    assert re.search(rf"^\| `{code.value}` \| \w.+ \| \w.+ \|$", CONCEPTS, re.MULTILINE)


def section(title):
    """The text of the endpoints page below a heading, up to the next one of any level."""
    after = ENDPOINTS.partition(f"{title}\n")[2]
    assert after, title
    return re.split(r"^#{2,3} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def messages(channel):
    """The names of a channel's messages in the AsyncAPI document: `type` on a WebSocket, else the event."""
    document = yaml.safe_load((GENERATE["API"] / "asyncapi.yaml").read_text("utf-8"))
    for name, reference in document["channels"][channel]["messages"].items():
        message = document["components"]["messages"][reference["$ref"].rsplit("/", 1)[1]]
        kind = re.search(r'"type": \{"const": "(\w+)"\}', json.dumps(message))
        yield kind[1] if kind and channel == "socket" else name


@pytest.mark.parametrize(
    ("channel", "title", "elsewhere"),
    [
        ("events", "### Events", {"state"}),
        ("events", "## NDJSON", {"state", "notice", "reset"}),
        ("socket", "## WebSocket", set()),
    ],
)
def test_every_message_of_the_asyncapi_document_is_in_the_endpoints_page(channel, title, elsewhere):
    named = set(re.findall(r"\w+", section(title)))
    assert sorted(set(messages(channel)) - named - elsewhere) == []


def test_a_websocket_subscribes_to_a_tag_or_a_group_as_the_endpoints_page_shows():
    shown = section("## WebSocket")
    assert re.search(r'\{"type":"subscribe",[^}]*"tag":', shown)
    assert re.search(r'\{"type":"subscribe",[^}]*"group":', shown)


@pytest.mark.parametrize("bound", [OPENED, MAX_MEMBERS, MAX_SELECTIONS])
def test_what_bounds_followed_tags_and_groups_is_in_the_operations_page(bound):
    rows = re.findall(r"^\| .*tags? (?:or|and) groups?.* \| fixed \| .*", OPERATIONS, re.MULTILINE)
    assert any(re.search(rf"fixed \| {bound:,}\b", row) for row in rows), rows


@pytest.mark.parametrize("closing", list(Closing))
def test_every_closing_reason_says_whether_to_come_back(closing):
    assert re.search(rf"^\| `{closing.value}` \| {closing.websocket_code} \|$", ENDPOINTS, re.MULTILINE)
    assert re.search(rf"^\| `{closing.value}` \| \w.+ \| (yes|no|-).* \|$", ENDPOINTS, re.MULTILINE)


@pytest.mark.parametrize("token", ["not a cursor", "other-1", "epoch-9"])
def test_every_reason_of_a_reset_is_explained(token):
    reason = locate(token, None, epoch="epoch", head=1).reset_reason
    assert re.search(rf"^\| `{reason}` \| \w", ENDPOINTS, re.MULTILINE)


@pytest.mark.parametrize("status", list(Status))
def test_every_status_is_explained(status):
    assert re.search(rf"^\| `{status.value}` \| \w", CONCEPTS, re.MULTILINE)


def test_every_source_delivery_and_standing_is_named():
    assert coded(CONCEPTS) >= {source.value for source in Source}
    assert coded(CONCEPTS) >= set(DELIVERIES)
    assert coded(ENDPOINTS) >= {standing.value for standing in UpstreamState}


def test_the_state_document_is_shown_and_explained_with_every_key():
    event = Event(TaskKey("qingbo", "1"), Cursor("e", 1), unknown(unix_time=0.0))
    keys = re.findall(r'"(\w+)":', document(event, now=WALL).decode())
    (shown,) = snippets("json", page="docs/concepts.md")
    assert re.findall(r'^  "(\w+)":', shown.text, re.MULTILINE) == keys
    assert coded(CONCEPTS) >= set(keys)


def test_every_room_is_in_the_design_page():
    rooms = {path.stem for path in (ROOT / "bridge").iterdir() if path.stem != "py" and path.stem[0] != "_"}
    assert rooms - coded(PAGES["docs/design.md"]) == set()


def test_the_arrows_in_the_design_page_are_those_that_are_checked():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    layers = re.search(r"^layers = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)[1]
    checked = re.findall(r'"([^"]+)"', layers)
    shown = [one.text.split("\n")[:-1] for one in snippets("", page="docs/design.md")]
    assert [layer for layer in checked if layer != "__main__"] in shown
