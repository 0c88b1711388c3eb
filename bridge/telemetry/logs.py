"""How the log looks from outside: JSON for machines, words for people, on standard error.

Called once by a command that serves. Library code knows nothing of it, and a program that mounts the bridge
keeps its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bridge.clock import Clock, SystemClock
from bridge.telemetry.log_throttle import LogThrottle
from bridge.telemetry.log_writer import LogWriter, Write, to_descriptor
from bridge.telemetry.redaction import Redaction
from bridge.telemetry.request_context import current_request

OURS = "bridge"
MAX_TEXT = 8192

_PLAIN = (int, float, bool, type(None))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OUR_WORDS = frozenset({"timestamp", "level", "logger"})

logger = logging.getLogger(__name__)


def configure(
    level: str,
    style: str,
    *,
    secrets: Iterable[str] = (),
    write: Write | None = None,
    clock: Clock | None = None,
) -> LogWriter:
    """Send everybody's lines through one formatter to standard error.

    Our own from `level` on; the libraries' from warnings on, whatever `level` is: at debug level they would
    show whole frames, heads and addresses.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        style: `json`, `human`, or `auto`: human where standard error is a terminal.
        secrets: What must never leave in a line.
        write: Instead of standard error.
    """
    _occupy_standard_descriptors()
    terminal = _is_terminal(sys.stderr)
    human = style == "human" or (style == "auto" and terminal)
    sink = LogWriter(write or to_descriptor(2), LogThrottle(), clock or SystemClock())
    sink.addFilter(Context())
    sink.setFormatter(make_formatter(Redaction(secrets), human=human, colors=human and terminal))
    wanted = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(sink)
    root.setLevel(max(wanted, logging.WARNING))
    logging.getLogger(OURS).setLevel(wanted)
    logging.getLogger("uvicorn.error").addFilter(_is_ours_to_know)
    logging.captureWarnings(capture=True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed
    return sink


class Context(logging.Filter):
    """Puts the request that is being served onto its lines; also for a handler of who mounts the bridge."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always True: nothing is held back here."""
        visit = current_request()
        if visit is not None:
            record.request_id = visit.request_id
            if visit.trace is not None and not hasattr(record, "trace_id"):
                record.trace_id = visit.trace.trace_id
            if visit.caller is not None:
                record.caller = visit.caller
        return True


def make_formatter(redact: Redaction, *, human: bool, colors: bool = False) -> logging.Formatter:
    """Renders a record as one line; what a stranger chose can neither end it nor begin another.

    Args:
        redact: Sees every text before it is rendered.
    """
    last: list[Processor]
    if human:
        plain = structlog.dev.plain_traceback  # it is text by then
        console = structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=24, exception_formatter=plain, sort_keys=False
        )
        last = [_printable, console]
    else:
        last = [structlog.processors.JSONRenderer(serializer=_json)]
    return _Lines([structlog.processors.ExceptionRenderer(), _Redact(redact), *last])


class _Lines(logging.Formatter):
    """Runs structlog's processors over a record.

    Intentional: not structlog's own `ProcessorFormatter`, which copies the record and renders it by the
    standard library first; that is half of what a line costs.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._processors = processors

    def format(self, record: logging.LogRecord) -> str:
        """When, how grave, who, what; then what the line says besides, in its own order."""
        at = datetime.fromtimestamp(record.created, UTC)
        fields: Any = {
            "timestamp": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for key, value in record.__dict__.items():
            if key not in _STANDARD and key not in fields:
                fields[key] = value
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        for process in self._processors:
            fields = process(None, "", fields)
        return str(fields)


class _Redact:
    """Every value a text without secrets, or a plain number."""

    def __init__(self, redact: Redaction) -> None:
        self._redact = redact

    def __call__(self, _logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
        return {key: value if key in _OUR_WORDS else self._value(value) for key, value in fields.items()}

    def _value(self, value: object) -> Any:
        if isinstance(value, str):
            return self._redact(_bounded(value))
        return value if isinstance(value, _PLAIN) else self._redact(_bounded(repr(value)))


def _bounded(text: str) -> str:
    """Beginning and end of a long text: of a traceback, where it began and what was raised."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}[... {len(text) - 2 * half} characters ...]{text[-half:]}"


def _json(fields: EventDict, **_options: object) -> str:
    """ASCII: a terminal, a pager and a line-wise collector see no control character of any kind."""
    return json.dumps(fields, ensure_ascii=True).replace("\x7f", "\\u007f")


def _printable(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    return {
        key: (_indented if key == "exception" else visible)(value) if isinstance(value, str) else value
        for key, value in fields.items()
    }


def visible(text: str) -> str:
    r"""The text with what cannot be seen written out, as `\n` or `\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _indented(traceback: str) -> str:
    """Below its line; each line of it says that it is one, so that no message in it can pass for another."""
    return "\n".join(f"    | {visible(line)}" for line in traceback.split("\n"))


def _is_ours_to_know(record: logging.LogRecord) -> bool:
    """Not every stranger's bad UTF-8, with a traceback: the connection is closed with 1007; that is all."""
    return not record.getMessage().startswith("Invalid UTF-8 sequence")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _occupy_standard_descriptors() -> None:
    """Where standard error was closed before we began, the next socket would get its number, and our log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("the process ended by a bug", exc_info=(kind, error, trace))


def _thread_crashed(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is None:
        return
    trouble = (told.exc_type, told.exc_value, told.exc_traceback)
    logger.critical("a thread ended by a bug", exc_info=trouble)
