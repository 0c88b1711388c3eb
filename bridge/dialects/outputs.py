"""Collects the results of a task from the places where a provider puts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import quote, urljoin

from bridge.core.task import Output
from bridge.dialects.media import is_data_url, split_data, type_of_media, type_of_name, type_of_url
from bridge.dialects.paths import Field, Finder, holds

MAX_OUTPUTS = 256
_MAX_URL = 8192
_MAX_ITEMS = 4 * MAX_OUTPUTS  # a list of a million empty objects must not block the event loop
_MAX_NODES = 10_000
_MAX_FOREIGN = 2048
_LINK = re.compile(r"https?://[^\s/?#\x00-\x20\x7f<>\"][^\s\x00-\x20\x7f<>\"]*", re.IGNORECASE)
_ABSOLUTE = re.compile(r"https?://[^\s/?#<>\"]", re.IGNORECASE)
_OTHER_HOST = re.compile(r"//[\w-]+(?:\.[\w-]+)+(?::\d+)?/\S+")
_BUCKET = re.compile(r"(?:gs|s3|s3a|oss|cos|tos|obs|az|abfss?)://\S+", re.IGNORECASE)
_FOREIGN = re.compile(r"(?!https?:)[a-z][a-z0-9+.-]{1,30}://\S+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSAFE = re.compile(r"[\s\"<>]")


class LinkContext(StrEnum):
    """Where a text was found."""

    URL = "url"
    TEXT = "text"
    SEARCH = "search"


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


def gather(rules: Sequence[OutputRule], document: object, base: str = "") -> tuple[Output, ...]:
    """Every result once, in the order of the rules, at most `MAX_OUTPUTS`.

    Args:
        base: The address of the answer, for relative links.
    """
    outputs: dict[str, Output] = {}
    for rule in rules:
        value = next((value for find in rule.at if holds(value := find(document))), None)
        if value is None:
            continue
        for output in _outputs(rule, value, base):
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


def _outputs(rule: OutputRule, value: object, base: str) -> Iterator[Output]:
    if rule.content is Content.SEARCH:
        yield from _searched(rule, value, base)
        return
    for item in value[:_MAX_ITEMS] if isinstance(value, list) else (value,):
        if isinstance(item, dict):
            yield from _from_object(rule, item, base)
        elif isinstance(item, str):
            output = _from_text(rule, item, base, base64=rule.content is Content.BASE64)
            if output is not None:
                yield output


def _from_object(rule: OutputRule, item: dict[str, object], base: str) -> Iterator[Output]:
    outputs = [_described(rule, item, url) for url in _links(rule.url, item, base)]
    if not outputs:
        contents = _contents(rule.data, item) or _data_urls(rule.url, item)
        outputs = [_described(rule, item, None, data) for data in contents]
    if not outputs:
        outputs = [replace(_described(rule, item, None), file_id=text) for text in _foreign(rule.url, item)]
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


def _from_text(rule: OutputRule, text: str, base: str, *, base64: bool) -> Output | None:
    url = None if base64 else link(text, base)
    if url:
        return Output(type=rule.type or type_of_url(url) or "file", url=url)
    if not base64 and foreign(text):
        return Output(type=rule.type or type_of_url(text) or "file", file_id=text.strip())
    if base64 or is_data_url(text):
        content = split_data(text.strip())
        if content:
            kind = rule.type or type_of_media(content[1]) or "file"
            return Output(type=kind, data=content[0], media_type=content[1])
    return None


def _foreign(finders: Iterable[Finder], item: object) -> list[str]:
    for find in finders:
        addresses = [text for value in _texts(find(item)) if (text := foreign(value, LinkContext.URL))]
        if addresses:
            return addresses
    return []


def _links(finders: Iterable[Finder], item: object, base: str) -> list[str]:
    for find in finders:
        links = [url for text in _texts(find(item)) if (url := link(text, base, LinkContext.URL))]
        if links:
            return links
    return []


def _contents(finders: Iterable[Finder], item: object) -> list[tuple[str, str | None]]:
    for find in finders:
        contents = [content for text in _texts(find(item)) if (content := split_data(text))]
        if contents:
            return contents
    return []


def _data_urls(finders: Iterable[Finder], item: object) -> list[tuple[str, str | None]]:
    """Contents at the place of a link: some models of fal answer so when asked to."""
    for find in finders:
        urls = [text.strip() for text in _texts(find(item)) if is_data_url(text)]
        contents = [content for text in urls if (content := split_data(text))]
        if contents:
            return contents
    return []


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return []
    return [text for text in value[:MAX_OUTPUTS] if isinstance(text, str)]


def link(text: str, base: str = "", context: LinkContext = LinkContext.TEXT) -> str | None:
    """The text as an absolute http(s) link of at most `_MAX_URL` characters, None if it is none.

    Args:
        base: The address of the answer, against which a relative link is resolved; empty for unknown.
        context: How likely the text is a link at all.
    """
    text = text.strip()
    if not text or len(text) > _MAX_URL or _CONTROL.search(text):
        return None
    blank = any(character.isspace() for character in text)
    is_file = type_of_url(text) is not None
    if _LINK.fullmatch(text):
        return text
    if not _ABSOLUTE.match(text):
        # A sentence may begin with a slash, and a word may end like a file.
        begins = text.startswith(("/", "./", "../"))
        likely = {
            LinkContext.URL: begins or is_file,
            LinkContext.TEXT: is_file and (begins or not blank),
            LinkContext.SEARCH: is_file and begins,
        }[context]
        if not base or not (_OTHER_HOST.fullmatch(text) or (likely and (is_file or not blank))):
            return None
    elif blank and not is_file and context is not LinkContext.URL:
        return None  # a sentence that begins with a link
    try:
        url = urljoin(base, _UNSAFE.sub(lambda found: quote(found[0]), text))
    except ValueError:
        return None
    return url if len(url) <= _MAX_URL and _LINK.fullmatch(url) else None


def foreign(text: str, context: LinkContext = LinkContext.TEXT) -> str | None:
    """The text, if it is the address of a file that no client can fetch, such as one in a bucket."""
    text = text.strip()
    pattern = _FOREIGN if context is LinkContext.URL else _BUCKET
    return text if len(text) <= _MAX_FOREIGN and pattern.fullmatch(text) else None


def is_foreign(output: Output) -> bool:
    """Whether only an address of the result is known that clients cannot fetch."""
    return not is_fetchable(output) and "://" in (output.file_id or "")


def has_empty_link(rules: Sequence[OutputRule], document: object) -> bool:
    """Whether a place of a link has a text that is none."""
    for rule in rules:
        if rule.content is not Content.LINK:
            continue
        for value in (find(document) for find in rule.at):
            items = value[:_MAX_ITEMS] if isinstance(value, list) else (value,)
            if items and all(item == "" for item in items):
                return True
            for item in items:
                if isinstance(item, str) and _is_broken_link(item):
                    return True
                if isinstance(item, dict) and any(isinstance(find(item), str) for find in rule.url):
                    return True
    return False


def _is_broken_link(text: str) -> bool:
    """Whether a text can only be meant as a link, and is none: too long, or with control characters."""
    text = text.strip()
    return _ABSOLUTE.match(text) is not None and " " not in text and link(text) is None


def _searched(rule: OutputRule, value: object, base: str) -> Iterator[Output]:
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
        elif isinstance(value, str):
            url = link(value, base, LinkContext.SEARCH)
            address = None if url else foreign(value, LinkContext.SEARCH)
            content = split_data(value.strip()) if is_data_url(value) else None
            if url or address:
                kind = type_of_url(url or address) or type_of_name(key) or rule.type or "file"
                yield Output(type=kind, url=url, file_id=address)
            elif content:
                kind = type_of_media(content[1]) or type_of_name(key) or rule.type or "file"
                yield Output(type=kind, data=content[0], media_type=content[1])
