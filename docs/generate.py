"""Generates the tables in the documentation from the code, and `openapi.json` from `openapi.yaml`.

Run `python docs/generate.py` after a change of settings, metrics, errors, closing reasons or
`openapi.yaml`; `make bench` runs it for the figures of the newest results. A page has each table between two
markers, `<!-- generated: NAME -->` and `<!-- end -->`; the rest is written by hand.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import orjson
import yaml
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from bridge import errors
from bridge.config.limits import ADDRESS, CALLER, LIMITS, MEBIBYTE
from bridge.config.load import NESTED, PREFIX
from bridge.config.settings import OutputSettings, Settings, UpstreamSettings, WebhookSettings
from bridge.core.event import Closing
from bridge.telemetry.metrics import Metrics

DOCS = Path(__file__).parent
API = DOCS.parent / "bridge/web/static/api"
FIGURES = runpy.run_path(str(DOCS / "figures.py"))
# For codes that several classes share: what the first of them says would be too narrow.
_SENTENCES = {
    "internal_error": "Unhandled exception in the bridge; see its log.",
    "invalid_request": "The request is malformed.",
    "upstream_unavailable": "The provider cannot be reached, is failing, or is rate limiting the bridge.",
}
_PLACE = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings_table() -> str:
    """The top-level settings."""
    return _settings(Settings, PREFIX)


def upstream_table() -> str:
    """The settings of one upstream."""
    return _settings(UpstreamSettings, f"{PREFIX}UPSTREAMS{NESTED}NAME{NESTED}")


def output_table() -> str:
    """The settings of copies."""
    return _settings(OutputSettings, f"{PREFIX}OUTPUTS{NESTED}")


def webhook_table() -> str:
    """The settings of one webhook."""
    return _settings(WebhookSettings, f"{PREFIX}WEBHOOKS{NESTED}NAME{NESTED}")


def metrics_table() -> str:
    """Every metric, with the possible values of its labels."""
    metrics = Metrics(CollectorRegistry(), ["qingbo"])
    metrics.report_certificate(lambda: 0.0)
    metrics.report_engine()
    rows = []
    for family in metrics.exposition(openmetrics=False).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels: dict[str, list[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label != "le" and value not in labels.setdefault(label, []):
                    labels[label].append(value)
        rows.append((f"`{name}`", family.type, _labels(labels), family.documentation))
    return _table(("metric", "type", "labels and their values", "counts"), sorted(rows))


def errors_table() -> str:
    """Every error code, with its HTTP status."""
    rows: dict[str, tuple[str, ...]] = {}
    for error in _errors():
        if error.code in rows or error is errors.ConfigError:
            continue
        again = "yes" if error.retryable else "no"
        sentence = _SENTENCES.get(error.code) or _first_line(error.__doc__)
        rows[error.code] = (f"`{error.code}`", str(error.status), again, sentence)
    return _table(("code", "status", "retryable", "means"), sorted(rows.values()))


def closings_table() -> str:
    """Every reason for which the bridge closes a connection."""
    rows = [(f"`{closing.value}`", str(closing.websocket_code)) for closing in Closing]
    return _table(("reason", "WebSocket close code"), rows)


def limits_table() -> str:
    """Every limit per caller and per address, with what the one above it gets."""
    fields = Settings.model_fields
    rows = []
    for row in LIMITS:
        counted = {CALLER: row.per != "address", ADDRESS: row.per != "caller"}
        exposed = {CALLER: row.exposed_caller, ADDRESS: row.exposed_address}
        defaults = [
            _amount(fields[row.setting + suffix].default) if exists else "-"
            for suffix, exists in counted.items()
        ]
        profile = [_amount(exposed[suffix]) if exists else "-" for suffix, exists in counted.items()]
        rows.append((f"`{row.setting}`", row.counts, _amount(row.total), *defaults, *profile, row.beyond))
    columns = ("setting", "counts", "total", "caller", "address", "exposed: caller", "exposed: address")
    return _table((*columns, "beyond it"), rows)


def _amount(value: float | None) -> str:
    if value is None:
        return "-"
    whole = int(value)
    return f"{whole // MEBIBYTE} MiB" if whole and whole % MEBIBYTE == 0 else f"{whole}"


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings_table,
    "upstream": upstream_table,
    "webhook": webhook_table,
    "output": output_table,
    "limits": limits_table,
    "metrics": metrics_table,
    "errors": errors_table,
    "closings": closings_table,
    **{
        name: FIGURES[name]
        for name in (
            "headline",
            "peers",
            "sizing",
            "memory",
            "costs",
            "example",
            "compared",
            "scaling",
            "ceiling",
        )
    },
}


def filled(page: str) -> str:
    """The text of a page with its tables regenerated."""
    return _PLACE.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], page)


def pages() -> Iterator[Path]:
    """The pages with generated tables."""
    candidates = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    return (path for path in candidates if _PLACE.search(path.read_text("utf-8")))


def _settings(model: type[BaseModel], prefix: str) -> str:
    tables = (
        ("outputs", "upstreams", "webhooks") if model is Settings else ()
    )  # an endpoint has `upstreams` too: a list
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        rows.append(
            (
                f"`{name}`",
                "required" if field.is_required() else _default(default),
                _unit(name),
                f"`{prefix}{name.upper()}{f'{NESTED}...' if name in tables else ''}`",
                field.description or "",
            )
        )
    return _table(("setting", "default", "unit", "environment", "means"), rows)


def _default(value: object) -> str:
    if value is None or value == {} or isinstance(value, BaseModel):
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, Enum):
        value = value.value
    return f"`{value!r}`".replace("'", '"')


def _unit(name: str) -> str:
    if name.endswith("_seconds"):
        return "seconds"
    if name.endswith("_bytes"):
        return "bytes"
    return {
        "requests_per_second": "requests per second",
        "max_in_flight": "requests",
        "max_streams": "streams",
    }.get(name, "")


def _labels(labels: dict[str, list[str]]) -> str:
    return "; ".join(
        f"`{name}`"
        if name in {"upstream", "version"}
        else f"`{name}`: " + " ".join(f"`{value}`" for value in values)
        for name, values in labels.items()
    )


def _errors() -> Iterator[type[errors.BridgeError]]:
    """In the order of the source."""
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.BridgeError):
            yield value


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n", maxsplit=1)[0]


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def openapi_json() -> bytes:
    """The OpenAPI document as JSON, on one line."""
    return orjson.dumps(
        yaml.safe_load((API / "openapi.yaml").read_text("utf-8")), option=orjson.OPT_APPEND_NEWLINE
    )


def main() -> None:
    """Regenerate every page, and the document in its other format."""
    (API / "openapi.json").write_bytes(openapi_json())
    for path in pages():
        path.write_text(filled(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
