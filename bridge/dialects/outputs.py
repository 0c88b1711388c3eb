"""Collects the results of a task from the places where a provider puts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.task import Output
from bridge.dialects.media import split_data, type_of_media, type_of_name, type_of_url
from bridge.dialects.paths import Field, Finder, holds

MAX_OUTPUTS = 256
_MAX_URL = 8192
_MAX_ITEMS = 4 * MAX_OUTPUTS  # a list of a million empty objects must not block the event loop
_MAX_NODES = 10_000
_LINK = re.compile(r"(?:https?|gs|s3|oss|tos)://[^\s\x00-\x20\x7f<>\"]+", re.IGNORECASE)


class Content(StrEnum):
    """What the strings at an output rule's place are."""

    LINK = "link"
    BASE64 = "base64"
    SEARCH = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRule:
    """Where results of one kind are; the other paths start at each item found at `at`.

    Args:
        at: The first path that finds something counts; a list there is read item by item.
        type: The type where the item itself does not say it.
        content: `search` takes every link anywhere below, for results without a documented shape.
        url: A link or a list of links.
        data: Base64 text, or a list of it.
    """

    at: Sequence[Finder]
    type: str | None
    content: Content
    url: Sequence[Finder]
    data: Sequence[Finder]
    type_at: Field[str]
    media_type: Field[str]
    file_id: Field[str]
    expires_at: Field[float]
    width: Field[int]
    height: Field[int]
    duration_seconds: Field[float]


def gather(rules: Sequence[OutputRule], document: object) -> tuple[Output, ...]:
    """Every result once, in the order of the rules, at most `MAX_OUTPUTS`."""
    outputs: dict[str, Output] = {}
    for rule in rules:
        value = next((value for find in rule.at if holds(value := find(document))), None)
        if value is None:
            continue
        for output in _outputs(rule, value):
            key = output.url or output.data or f"file {output.file_id}"
            outputs.setdefault(key, output)
            if len(outputs) >= MAX_OUTPUTS:
                return tuple(outputs.values())
    return tuple(outputs.values())


def complete(known: tuple[Output, ...], added: tuple[Output, ...]) -> tuple[Output, ...]:
    """The known results and those that a follow-up call added, which replace the ones with only a file id."""
    if not added:
        return known
    without_link = next((output for output in known if not is_fetchable(output)), None)
    with_link = tuple(output for output in known if is_fetchable(output))
    return with_link + tuple(_inheriting(output, without_link) for output in added)


def is_fetchable(output: Output) -> bool:
    """Whether the result has a link or its content."""
    return output.url is not None or output.data is not None


def _inheriting(output: Output, known: Output | None) -> Output:
    if known is None:
        return output
    return Output(
        type=output.type if output.type != "file" else known.type,
        url=output.url,
        data=output.data,
        expires_at=output.expires_at or known.expires_at,
        width=output.width or known.width,
        height=output.height or known.height,
        duration_seconds=output.duration_seconds or known.duration_seconds,
        file_id=output.file_id or known.file_id,
        media_type=output.media_type or known.media_type,
    )


def _outputs(rule: OutputRule, value: object) -> Iterator[Output]:
    if rule.content is Content.SEARCH:
        yield from _searched(rule, value)
        return
    for item in value[:_MAX_ITEMS] if isinstance(value, list) else (value,):
        if isinstance(item, dict):
            yield from _from_object(rule, item)
        elif isinstance(item, str):
            output = _from_text(rule, item, base64=rule.content is Content.BASE64)
            if output is not None:
                yield output


def _from_object(rule: OutputRule, item: dict[str, object]) -> Iterator[Output]:
    outputs = [_described(rule, item, url) for url in _links(rule.url, item)]
    if not outputs:
        outputs = [_described(rule, item, None, data) for data in _contents(rule.data, item)]
    if not outputs and rule.file_id.read(item) is not None:
        outputs = [_described(rule, item, None)]
    yield from outputs


def _described(
    rule: OutputRule, item: object, url: str | None, data: tuple[str, str | None] | None = None
) -> Output:
    media_type = rule.media_type.read(item) or (data[1] if data else None)
    type_word = rule.type_at.read(item)
    return Output(
        type=type_of_name(type_word) or type_of_media(media_type) or rule.type or type_of_url(url) or "file",
        url=url,
        expires_at=rule.expires_at.read(item),
        width=rule.width.read(item),
        height=rule.height.read(item),
        duration_seconds=rule.duration_seconds.read(item),
        file_id=rule.file_id.read(item),
        data=data[0] if data else None,
        media_type=media_type,
    )


def _from_text(rule: OutputRule, text: str, *, base64: bool) -> Output | None:
    url = None if base64 else link(text)
    if url:
        return Output(type=rule.type or type_of_url(url) or "file", url=url)
    if base64 or text.startswith("data:"):
        content = split_data(text)
        if content:
            kind = rule.type or type_of_media(content[1]) or "file"
            return Output(type=kind, data=content[0], media_type=content[1])
    return None


def _links(finders: Iterable[Finder], item: object) -> list[str]:
    for find in finders:
        links = [url for text in _texts(find(item)) if (url := link(text))]
        if links:
            return links
    return []


def _contents(finders: Iterable[Finder], item: object) -> list[tuple[str, str | None]]:
    for find in finders:
        contents = [content for text in _texts(find(item)) if (content := split_data(text))]
        if contents:
            return contents
    return []


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return [text for text in value[:MAX_OUTPUTS] if isinstance(text, str)]


def link(text: str) -> str | None:
    """The text itself, if it is an absolute link of at most `_MAX_URL` characters."""
    text = text.strip()
    return text if len(text) <= _MAX_URL and _LINK.fullmatch(text) else None


def _searched(rule: OutputRule, value: object) -> Iterator[Output]:
    """Links anywhere below, with a stack of its own: deep nesting must not become a RecursionError."""
    waiting: list[tuple[str | None, object]] = [(None, value)]
    for _ in range(_MAX_NODES):
        if not waiting:
            return
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(reversed(list(value.items())[:_MAX_NODES]))
        elif isinstance(value, list):
            waiting.extend((key, item) for item in reversed(value[:_MAX_NODES]))
        elif isinstance(value, str) and (url := link(value)):
            kind = type_of_url(url) or type_of_name(key) or rule.type or "file"
            yield Output(type=kind, url=url)
