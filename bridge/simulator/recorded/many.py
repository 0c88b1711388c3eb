"""The call about many tasks of one preset: which tasks a request names, and their documents."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from bridge.simulator.faults import Fault
from bridge.simulator.tasks import Json

IDS = "{task_ids}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManyShape:
    """A preset's `[calls.status_many]`, read as data."""

    method: str
    path: str
    parameter: str
    listed: bool
    separator: str
    at: tuple[str, ...]
    wrapper: tuple[str, ...]

    def ids(self, request: web.Request, path: str) -> list[str] | None:
        """Return the ids that a request names; None when it is another call."""
        named = request.query.getall(self.parameter, [])
        if request.method != self.method or path != self.path or not named:
            return None
        return list(named) if self.listed else named[0].split(self.separator)

    def answer(self, documents: Sequence[Json], faults: Iterable[Fault]) -> Any:
        """Return the body of the answer; some faults change which documents it has."""
        items: list[Any] = [self._bare(document) for document in documents]
        for fault in faults:
            items = _changed(fault.name, items)
        body: Any = items
        for key in reversed(self.at):
            body = {key: body}
        return body

    def _bare(self, document: Json) -> Any:
        bare: Any = document
        for key in self.wrapper:
            bare = bare[key]
        return bare


def _changed(fault: str, items: list[Any]) -> list[Any]:
    match fault:
        case "left-out":
            return items[1:]
        case "foreign":
            return [{key: "foreign" if key == "id" else value for key, value in items[0].items()}, *items]
        case "sick":
            return [{key: value for key, value in items[0].items() if key == "id"}, *items[1:]]
        case "doubled":
            return [*items, *items]
        case "disorder":
            return items[::-1]
        case _:
            return items


def read_many(raw: Mapping[str, object]) -> ManyShape | None:
    """Read the table; None without one, or where the ids are not in the query."""
    query = raw.get("query")
    pairs = query.items() if isinstance(query, dict) else ()
    parameter = next((str(key) for key, value in pairs if value == IDS), None)
    if parameter is None:
        return None
    at, wrapper = str(raw.get("at", "@")), str(raw.get("wrapper", ""))
    return ManyShape(
        method=str(raw.get("method", "GET")).upper(),
        path=str(raw.get("path", "")),
        parameter=parameter,
        listed=raw.get("ids") == "list",
        separator=str(raw.get("separator", ",")),
        at=() if at == "@" else tuple(at.split(".")),
        wrapper=tuple(wrapper.split(".")) if wrapper else (),
    )
