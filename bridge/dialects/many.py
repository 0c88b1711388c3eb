"""The status call about many tasks: the ids go out together, and the answer has a document for each.

Nothing is decided about a task here: a document that names an asked id is handed on to be read like the
answer to that task's own status call. What is missing, foreign or malformed is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from urllib.parse import quote

import orjson

from bridge.core.task import climbs
from bridge.dialects.answers import AnswerRules, ParsedAnswer, json_of
from bridge.dialects.base import HttpResponse, Request
from bridge.dialects.lenient import write_json
from bridge.dialects.paths import Field, Finder
from bridge.dialects.templates import Body, Template, header_text
from bridge.errors import UnreadablePayload

IDS = "task_ids"
MAX_URL_IDS = 6000
"""Characters of a URL that the ids may take, encoded: many servers refuse URLs of more than 8 KiB."""

_PLAIN_ID = re.compile(r"(?!\.)[A-Za-z0-9_.~-]+").fullmatch  # it is its own encoding, and climbs nowhere
_MORE_ITEMS = 100  # documents of other tasks that are skipped, at least


@dataclass(frozen=True, kw_only=True)
class ManyCall:
    """How the status of many tasks is asked for, and where the answers are.

    Args:
        separator: Joins the ids; None where they go as a list: a query parameter once for each, a JSON array.
        max_ids: Ids of one call.
        at: Finds the answers: a list, or an object whose keys are the ids.
        id: Where a document of the list names its task, read in the form of a single answer.
        first: The first of these places.
        wrapper: Keys under which a document is put, so that it looks like a single answer.
    """

    method: str
    path: Template
    query: tuple[tuple[str, Template], ...]
    headers: tuple[tuple[str, Template], ...]
    body: Body | None
    base_url: str | None
    separator: str | None
    max_ids: int
    at: Finder
    id: Field[str]
    first: Finder
    wrapper: tuple[str, ...]

    @property
    def ids_in_url(self) -> bool:
        """Whether the ids are part of the URL, which may not be long."""
        return IDS in self.path.names or any(IDS in template.names for _, template in self.query)

    def room(self) -> int:
        """Characters that the ids of one call may take, by `size_of`."""
        return MAX_URL_IDS if self.ids_in_url else 1 << 30

    def size_of(self, task_id: str) -> int | None:
        """Characters that an id takes; None if it cannot be asked for together with others."""
        separator = self.separator
        if separator is not None and separator in task_id:
            return None
        if _PLAIN_ID(task_id):
            return len(task_id) + self.per_id
        return None if climbs(task_id) else len(quote(task_id, safe="")) + self.per_id

    @cached_property
    def per_id(self) -> int:
        """Characters beside each id: the separator, or the name of a repeated parameter."""
        if self.separator is not None:
            return len(quote(self.separator, safe=","))
        return max((len(quote(name)) + 2 for name, template in self.query if template.names), default=0)

    def request(self, task_ids: Sequence[str]) -> Request:
        """The call about these tasks, each of which `size_of` knows a size of."""
        encoded = [one if _PLAIN_ID(one) else quote(one, safe="") for one in task_ids]
        separator = self.separator if self.separator is not None else ","
        values = {IDS: quote(separator, safe=",").join(encoded)}
        path = self.path.fill(values)
        for name, template in self.query:
            each = [values]
            if self.separator is None and template.names:
                each = [{IDS: one} for one in encoded]
            for one in each:
                path += f"{'&' if '?' in path else '?'}{quote(name, safe='')}={_query_value(template, one)}"
        headers = {name: header_text(template.fill({})) for name, template in self.headers}
        body = None
        if self.body is not None:
            joined = {IDS: separator.join(task_ids)}
            tree = self.body.fill(joined) if self.separator is not None else _listed(self.body.tree, task_ids)
            body = orjson.dumps(tree)
            headers.setdefault("content-type", "application/json")
        return Request(method=self.method, path=path, headers=headers, body=body, base_url=self.base_url)

    def read(self, answer: HttpResponse, answers: AnswerRules, task_ids: Iterable[str]) -> dict[str, bytes]:
        """The document of each task that the answer shows, as JSON text in the form of a single answer.

        Of several documents of one task the first counts.

        Raises:
            UpstreamError: The answer is an error, or has no documents of tasks.
        """
        envelope, found = self._found(answer, answers)
        parsed = answers.classify(ParsedAnswer(envelope, None, None), answer, understood=False, shown=True)
        if parsed.status is not None:
            raise UnreadablePayload("the response is the status of one task", provider_status=answer.status)
        asked = frozenset(task_ids)
        documents: dict[str, bytes] = {}
        for task_id, document in islice(self._named(found, asked), 4 * len(asked) + _MORE_ITEMS):
            if task_id in asked and task_id not in documents:
                try:
                    documents[task_id] = write_json(document)
                except ValueError:
                    continue  # nested deeper than can be read
        return documents

    def _found(self, answer: HttpResponse, answers: AnswerRules) -> tuple[dict[str, object], object]:
        """The object around the answers, and the answers."""
        stated = answers.http.get(answer.status)
        text = json_of(answer) if 200 <= answer.status < 300 and stated is None else None
        found = self.at(text.document) if text is not None else None
        if text is None or not isinstance(found, dict | list):
            # An error, or the same envelope with an error inside: read as that of any call.
            parsed = answers.parse(answer, lambda documents: documents[0] if documents else {})
            answers.classify(parsed, answer, understood=False)
            raise UnreadablePayload("the response has no list of tasks", provider_status=answer.status)
        return (text.document if isinstance(text.document, dict) else {}), found

    def _named(self, found: object, task_ids: frozenset[str]) -> Iterator[tuple[str | None, object]]:
        """Each document in the form of a single answer, and the id that it names."""
        if isinstance(found, list):
            for item in found:
                if isinstance(item, dict):
                    document = self._wrapped(item)
                    named = self.first(document)
                    if type(named) is not str or named not in task_ids:
                        named = self.id.read(document)  # rarely: what is asked for is valid
                    yield named, document
        elif isinstance(found, dict):
            for key, item in found.items():
                if not isinstance(item, dict) and not self.wrapper:
                    continue
                document = self._wrapped(item)
                named = self.id.read(document)
                yield (key if named is None or named == key else None), document

    def _wrapped(self, item: object) -> object:
        for key in reversed(self.wrapper):
            item = {key: item}
        return item


def _query_value(template: Template, values: Mapping[str, str]) -> str:
    """The value of a parameter; the ids are encoded already."""
    return "".join(
        quote(literal, safe="") if name is None else values[IDS] for literal, name in template.parts
    )


def _listed(tree: object, task_ids: Sequence[str]) -> object:
    """A JSON body in which a string that is only the place of the ids is a list of them."""
    if isinstance(tree, Template):
        return list(task_ids) if tree.names else tree.fill({})
    if isinstance(tree, dict):
        return {key: _listed(value, task_ids) for key, value in tree.items()}
    return [_listed(value, task_ids) for value in tree] if isinstance(tree, list) else tree
