"""Log output: structured logs as JSON, or readable text, on standard error.

Configured once by a command that serves. A program that mounts the bridge keeps its own logging.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bridge.clock import Clock, SystemClock
from bridge.telemetry.log_throttle import LogThrottle
from bridge.telemetry.log_writer import LogWriter, Write, to_descriptor
from bridge.telemetry.redaction import Redaction
from bridge.telemetry.request_context import current_request

ROOT_LOGGER = "bridge"
MAX_TEXT = 8192

_PLAIN = (int, float, bool, type(None))
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OWN_FIELDS = frozenset({"timestamp", "level", "logger"})

logger = logging.getLogger(__name__)


def configure(
    level: str,
    style: str,
    *,
    secrets: Iterable[str] = (),
    write: Write | None = None,
    clock: Clock | None = None,
    worker: int = 0,
) -> LogWriter:
    """Send all log records through one formatter to standard error.

    The bridge's own from `level` on; those of libraries from warnings on, at any `level`: at debug level
    they would show whole frames, headers and addresses.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        style: `json`, `human`, or `auto`: human where standard error is a terminal.
        secrets: Texts to redact.
        write: Replaces standard error.
        worker: Number of this process among several that write to one stream; 0 for one alone.
    """
    _occupy_standard_descriptors()
    stream = sys.stderr  # None without a console, and closed if standard error was closed before the start
    terminal = stream is not None and not stream.closed and stream.isatty()
    human = style == "human" or (style == "auto" and terminal)
    writer = LogWriter(write or to_descriptor(2), LogThrottle(), clock or SystemClock())
    writer.addFilter(Context())
    if worker:
        writer.addFilter(partial(_name_worker, worker))
    writer.setFormatter(make_formatter(_redaction(secrets), human=human, colors=human and terminal))
    own_level = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(writer)
    # Root covers the libraries; at debug level aiohttp and websockets would log payloads.
    root.setLevel(max(own_level, logging.WARNING))
    logging.getLogger(ROOT_LOGGER).setLevel(own_level)
    logging.getLogger("uvicorn.error").addFilter(_is_not_invalid_utf8)
    logging.captureWarnings(capture=True)
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed
    return writer


def keep_from_logs(secret: str) -> None:
    """Redact a secret that was not known when the log was configured, such as a new API key."""
    for redaction in _in_use:
        redaction.add(secret)


def _redaction(secrets: Iterable[str]) -> Redaction:
    redaction = Redaction(secrets)
    _in_use[:] = [redaction]
    return redaction


_in_use: list[Redaction] = []


class Context(logging.Filter):
    """Adds the current request to a record. A program that mounts the bridge can use it as well."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; always True."""
        request = current_request()
        if request is not None:
            record.request_id = request.request_id
            if request.trace is not None and not hasattr(record, "trace_id"):
                record.trace_id = request.trace.trace_id
            if request.caller is not None:
                record.caller = request.caller
        return True


def make_formatter(redact: Redaction, *, human: bool, colors: bool = False) -> logging.Formatter:
    """A formatter that renders a record as one line, which no text chosen by a client can end or forge.

    Args:
        redact: Called with every text before it is rendered.
    """
    last: list[Processor]
    if human:
        plain = structlog.dev.plain_traceback  # the traceback is text by then
        console = structlog.dev.ConsoleRenderer(
            colors=colors, pad_event_to=24, exception_formatter=plain, sort_keys=False
        )
        last = [_printable, console]
    else:
        last = [structlog.processors.JSONRenderer(serializer=_json)]
    return _Lines([structlog.processors.ExceptionRenderer(), _Redact(redact), *last])


class _Lines(logging.Formatter):
    """Runs structlog's processors over a record.

    Intentional: not structlog's own `ProcessorFormatter`, which copies the record and renders it with the
    standard library first. That is half of the cost of a line.
    """

    def __init__(self, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._processors = processors

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger and event, then the `extra` fields in their own order."""
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
    """Makes every value a redacted text or a plain number."""

    def __init__(self, redact: Redaction) -> None:
        self._redact = redact

    def __call__(self, _logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
        return {key: value if key in _OWN_FIELDS else self._value(value) for key, value in fields.items()}

    def _value(self, value: object) -> Any:
        if isinstance(value, str):
            return self._redact(_bounded(value))
        return value if isinstance(value, _PLAIN) else self._redact(_bounded(repr(value)))


def _bounded(text: str) -> str:
    """Start and end of a long text: of a traceback, where it began and what was raised."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}[... {len(text) - 2 * half} characters ...]{text[-half:]}"


def _json(fields: EventDict, **_options: object) -> str:
    """JSON in ASCII, so that a terminal, a pager or a log collector sees no control character."""
    return json.dumps(fields, ensure_ascii=True).replace("\x7f", "\\u007f")


def _printable(_logger: WrappedLogger, _name: str, fields: EventDict) -> EventDict:
    return {
        key: (_indented if key == "exception" else visible)(value) if isinstance(value, str) else value
        for key, value in fields.items()
    }


def visible(text: str) -> str:
    r"""The text with unprintable characters escaped, as `\n` or `\x1b`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _indented(traceback: str) -> str:
    """A traceback below its log line. Each line is marked, so no message in it can pass for a log line."""
    return "\n".join(f"    | {visible(line)}" for line in traceback.split("\n"))


def _is_not_invalid_utf8(record: logging.LogRecord) -> bool:
    """Drop uvicorn's traceback for each WebSocket client that sends invalid UTF-8; it is closed with 1007."""
    return not record.getMessage().startswith("Invalid UTF-8 sequence")


def _name_worker(number: int, record: logging.LogRecord) -> bool:
    # Lines about another worker name that one.
    if not hasattr(record, "worker"):
        record.worker = number
    return True


def _occupy_standard_descriptors() -> None:
    """If standard error is closed at start, the next socket would get descriptor 2, and receive the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("unhandled exception in process", exc_info=(kind, error, trace))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None:
        return
    logger.critical(
        "unhandled exception in thread", exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )
