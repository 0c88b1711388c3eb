"""How a line looks, and that nothing a stranger chose can forge one."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import orjson
import pytest

from bridge.telemetry import logs
from bridge.telemetry.logs import Context, configure, make_formatter, visible
from bridge.telemetry.redaction import MASK, Redaction
from bridge.telemetry.request_context import bind, name_caller

HOSTILE = [
    "a\nfake line",
    "a\r\nb",
    "a\x00b",
    "\x1b[2Jgone",
    "\x9b31m",
    "a\u2028b\u2029c",
    "\x85next",
    "\u202eevil",
    "\u2066x\u2069",
    "\x7f",
    "\ud800",
    "a\tb",
    "\ufeff",
]


def rendered(
    text: str = "said", *, human: bool, secrets: tuple[str, ...] = (), exc: Any = None, **extra: Any
) -> str:
    record = logging.getLogger("bridge.x").makeRecord(
        "bridge.x", logging.INFO, "f", 1, text, (), exc, extra=extra
    )
    record.created = 1_700_000_000.25
    return make_formatter(Redaction(secrets), human=human).format(record)


def failure(text: str) -> Any:
    error = ValueError(text)
    try:
        raise error
    except ValueError:
        return sys.exc_info()


def test_a_line_is_one_object_with_when_how_grave_who_and_what_first() -> None:
    line = rendered("task ended", human=False, task="qingbo/a", seconds=1.5, looks=3, origin=None)
    assert list(orjson.loads(line))[:4] == ["timestamp", "level", "logger", "event"]
    assert orjson.loads(line) == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "bridge.x",
        "event": "task ended",
        "task": "qingbo/a",
        "seconds": 1.5,
        "looks": 3,
        "origin": None,
    }


def test_for_people_it_is_one_line_of_words() -> None:
    line = rendered("task ended", human=True, task="qingbo/a", looks=3)
    assert line.startswith("2023-11-14T22:13:20.250Z")
    assert "info" in line
    assert "task ended" in line
    assert line.endswith("task=qingbo/a looks=3")


def test_a_field_cannot_take_the_place_of_ours() -> None:
    told = orjson.loads(rendered(human=False, timestamp="x", level="y", logger="z", event="w"))
    assert (told["level"], told["logger"], told["event"]) == ("info", "bridge.x", "said")


@pytest.mark.parametrize("human", [True, False])
@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_seen_is_written_out(text: str, human: bool) -> None:
    for line in (rendered(text, human=human), rendered(human=human, task=f"qingbo/{text}", error=text)):
        assert line.isprintable(), line
        line.encode()
        if not human:
            told = orjson.loads(line) if "\\ud800" not in line else None
            assert told is None or text in {told["event"], told.get("error")}


@pytest.mark.parametrize("human", [True, False])
def test_no_line_of_a_traceback_passes_for_a_line_of_the_log(human: bool) -> None:
    forged = "2023-11-14T22:13:20.250Z [info] all is well"
    line = rendered(human=human, exc=failure(f"bad\n{forged}\x1b[31m\r{forged}"))
    _, *others = line.split("\n")
    assert "ValueError" in line
    assert all(other.startswith("    | ") for other in others)
    assert not any(part.startswith("2023") for part in line.splitlines()[1:])
    assert "\x1b" not in line
    assert bool(others) is human


@pytest.mark.parametrize("human", [True, False])
def test_secrets_are_hidden_wherever_they_stand(human: bool) -> None:
    secret = "marker-of-a-secret"
    for line in (
        rendered(f"it said {secret}", human=human, secrets=(secret,)),
        rendered(human=human, secrets=(secret,), error=f"x {secret}"),
        rendered(human=human, secrets=(secret,), what={"inside": [secret]}),
        rendered(human=human, secrets=(secret,), what=ValueError(secret)),
        rendered(human=human, secrets=(secret,), exc=failure(secret)),
        rendered(human=human, error=f"Authorization: Bearer {secret}"),
    ):
        assert secret not in line
        assert MASK in line


def test_every_value_can_be_rendered() -> None:
    class Odd:
        def __repr__(self) -> str:
            return "odd\nthing"

    for human in (True, False):
        line = rendered(human=human, a=Odd(), b=b"\xff\n", c={1: {2}}, d=float("nan"), e=10**400, f=logging)
        assert "\n" not in line


@pytest.mark.parametrize("human", [True, False])
def test_a_long_text_is_cut_in_its_middle(human: bool) -> None:
    line = rendered(human=human, error="begin" + "x" * 1_000_000 + "end")
    assert len(line) < 2 * logs.MAX_TEXT
    assert "begin" in line
    assert "xend" in line
    assert "characters" in line


def test_visible_leaves_ordinary_text_alone() -> None:
    assert visible("größer 世界 🙂 a=b") == "größer 世界 🙂 a=b"
    assert visible("a\nb\x1b\u202e") == "a\\nb\\x1b\\u202e"


def test_a_request_is_named_on_its_lines() -> None:
    def inside() -> logging.LogRecord:
        bind([(b"x-request-id", b"req-7"), (b"traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")])
        name_caller("somebody")
        record = logging.makeLogRecord({"msg": "x"})
        assert Context().filter(record)
        return record

    record = copy_context().run(inside)
    assert (record.request_id, record.trace_id, record.caller) == ("req-7", "a" * 32, "somebody")
    outside = logging.makeLogRecord({"msg": "x"})
    assert Context().filter(outside)
    assert not hasattr(outside, "request_id")


@pytest.fixture
def untouched() -> Iterator[None]:
    """Logging is the whole process's: put it back."""
    root, ours = logging.getLogger(), logging.getLogger("bridge")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    hooks = sys.excepthook, logs.threading.excepthook
    filters = list(logging.getLogger("uvicorn.error").filters)
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    sys.excepthook, logs.threading.excepthook = hooks
    logging.getLogger("uvicorn.error").filters[:] = filters
    logging.captureWarnings(capture=False)


def lines_of(written: list[bytes]) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in b"".join(written).splitlines()]


def test_ours_come_from_the_level_on_and_the_libraries_from_warnings_on(untouched: None) -> None:
    written: list[bytes] = []
    sink = configure("debug", "json", write=written.append)
    for name in (
        "bridge.hub",
        "uvicorn.error",
        "websockets.server",
        "asyncio",
        "aiohttp.client",
        "urllib3",
        "x",
    ):
        logging.getLogger(name).debug("debug of %s", name)
        logging.getLogger(name).info("info of %s", name)
    logging.getLogger("aiohttp.client").warning("a warning")
    sink.flush()
    assert [line["event"] for line in lines_of(written)] == [
        "debug of bridge.hub",
        "info of bridge.hub",
        "a warning",
    ]


def test_a_level_holds_for_everybody(untouched: None) -> None:
    written: list[bytes] = []
    sink = configure("error", "json", write=written.append)
    for name in ("bridge", "asyncio"):
        logging.getLogger(name).warning("no")
        logging.getLogger(name).error("yes")
    sink.flush()
    assert [line["event"] for line in lines_of(written)] == ["yes", "yes"]


def test_what_would_have_ended_the_process_in_plain_text_is_a_line_too(untouched: None) -> None:
    written: list[bytes] = []
    sink = configure("info", "json", secrets=["a-marker-secret"], write=written.append)
    sys.excepthook(*failure("a-marker-secret"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a-marker-secret is old", DeprecationWarning, stacklevel=1)
    sink.flush()
    crash, warning = lines_of(written)
    assert (crash["event"], crash["level"]) == ("unhandled exception in process", "critical")
    assert "ValueError" in crash["exception"]
    assert b"a-marker-secret" not in b"".join(written)
    assert warning["logger"] == "py.warnings"


def test_no_stranger_fills_the_log_with_bad_text(untouched: None) -> None:
    written: list[bytes] = []
    sink = configure("info", "json", write=written.append)
    logging.getLogger("uvicorn.error").error("Invalid UTF-8 sequence received from client.")
    logging.getLogger("uvicorn.error").error("something else")
    sink.flush()
    assert [line["event"] for line in lines_of(written)] == ["something else"]
