"""Client of a bridge: watch tasks, wait for results; read, find, list, submit, register and cancel tasks."""

from __future__ import annotations

import asyncio
import random
import re
import uuid
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, overload
from urllib.parse import quote, urlencode

import orjson
from yarl import URL

from bridge.client.backoff import Backoff, Timeouts
from bridge.client.download import Download
from bridge.client.errors import ResultTimeout, TaskFailed
from bridge.client.follow import Follow
from bridge.client.state import Ref, TaskNotice, TaskState, read_json, ref_of
from bridge.client.tasks import (
    JSON,
    MAX_PAGE,
    TIMEOUT,
    Group,
    ListPage,
    Statuses,
    TaskTicket,
    call_back,
    detail_headers,
    page_query,
    selection_of,
    words_of,
)
from bridge.client.transport import HttpTransport, Token, task_path
from bridge.client.webhooks import WebhookAdmin
from bridge.core.details import check_group, check_tags
from bridge.core.task import Status, check_id, check_upstream_name
from bridge.errors import BridgeError, InvalidRequest, UnknownTask

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    import aiohttp

_DEFAULT_TIMEOUTS = Timeouts()
_MAX_SUBMIT_DELAY = 5.0
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_SUBMITTIMEOUT = 150.0  # the bridge waits up to 60 s for the provider, then may search for the task


class Bridge:
    """Client of the bridge at `url`.

        async with Bridge("http://127.0.0.1:8080") as bridge:
            async for state in bridge.watch("qingbo/task-1"):
                print(state.status, state.progress)

    Args:
        url: Address of the bridge, such as `https://bridge.example.com`; a path prefix is kept.
        token: The bearer token, or a plain or async callable that returns it; called before every request and
            every reconnect, so that an expiring token can be renewed.
        session: Your own aiohttp session (proxies, client certificates); the caller closes it.
        ca_file: PEM file with the certificates to trust, instead of the system's.
        timeouts: Timeouts of watches; the defaults match the bridge's own.
        rng: Source of the jitter of reconnects.
        sleep: Sleeps between reconnects.

    Attributes:
        webhooks: The calls that administer webhooks, for tokens with the scope `admin`.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        session: aiohttp.ClientSession | None = None,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._transport = HttpTransport(url, token, session, ca_file)
        self.webhooks = WebhookAdmin(self._transport)
        self._timeouts = timeouts
        self._rng = rng or random.Random()  # noqa: S311 - jitter is not a secret
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        await self._transport.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    def watch(
        self,
        *refs: Ref,
        tag: str | None = None,
        group: str | None = None,
        last_event_id: str | None = None,
        history: bool = False,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> AsyncGenerator[TaskState, None]:
        """Yield the states of one or many tasks, the current state first, until every task is final.

        With `tag` or `group` instead of refs: of everything that has it, the newest 1,000 first, then also
        what comes later. A tag never ends; a group ends when it is closed and all of it is final.

        Survives lost connections, restarts and drains of the bridge; each state is yielded once. To stop
        early and close the connection at once, wrap it in `contextlib.aclosing`.

        Ordering: states of one task are yielded oldest first; a slow reader may skip intermediate states.

        Args:
            tag: A tag of `submit` or `register`, such as `user:7`.
            group: A group of `submit` or `register`.
            last_event_id: A `cursor` saved earlier: only newer states are yielded.
            history: Whether to yield the recorded states first.
            on_notice: Called with each notice of the bridge, and with the client's own `reset` and
                `reconnecting`; may be async. What it raises ends the watch.
            unreachable_after: Seconds without the bridge after which to give up; None for never.

        Raises:
            InvalidRequest: A ref, a name or the cursor is malformed, or more than one kind is given.
            Unauthenticated: The token is missing or invalid.
            Forbidden: The token does not allow these tasks.
            UnknownTask: None of these tasks exists.
            UnknownUpstream: The bridge has no such upstream.
            BridgeUnreachable: Only with `unreachable_after`.
            UnreadablePayload: The server is not a bridge.
        """
        follow = self._follow(
            refs,
            selection=selection_of(tag, group),
            cursor=last_event_id,
            history=history,
            unreachable_after=unreachable_after,
        )
        return _states(follow, on_notice)

    async def result(
        self,
        ref: Ref,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the caller wants the newest state with it
        on_state: Callable[[TaskState], object] | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> TaskState:
        """Wait until a task is final; return the final state if it completed.

        Survives the same failures as `watch`.

        Args:
            timeout: Seconds to wait; None to wait without limit. After a timeout the task still runs.
            on_state: Called with each state, the final one included; may be async. What it raises is raised
                here, and ends the wait.
            on_notice: As in `watch`.
            unreachable_after: Seconds without the bridge after which to give up; None for never.

        Raises:
            TaskFailed: The task failed, was cancelled or was lost; its `state` says why.
            ResultTimeout: The task is not final after `timeout` seconds; a `TimeoutError` too.
            UnknownTask: There is no such task.
            BridgeError: As in `watch`.
        """
        newest: TaskState | None = None
        try:
            async with (
                asyncio.timeout(timeout) as limit,
                aclosing(self._to_the_end(ref, unreachable_after)) as news,
            ):
                async for item in news:
                    if isinstance(item, TaskState):
                        newest = item
                        await call_back(on_state, item)
                    else:
                        await call_back(on_notice, item)
        except TimeoutError:
            if not limit.expired():  # it comes from a callback
                raise
            status = newest.status if newest else "unknown"
            raise ResultTimeout(f"no result within {timeout:g} s: {status}", state=newest) from None
        assert newest is not None
        if newest.status is not Status.COMPLETED:
            raise TaskFailed(newest)
        return newest

    async def _to_the_end(
        self, ref: Ref, unreachable_after: float | None
    ) -> AsyncGenerator[TaskState | TaskNotice, None]:
        """News of one task up to its final state.

        A watch can end without one, where the bridge believes that this client has seen it (204, `end`). Then
        it is requested again, without a cursor.
        """
        backoff = Backoff(self._timeouts, self._rng)
        final = False
        while True:
            follow = self._follow((ref,), unreachable_after=unreachable_after)
            async with aclosing(follow.news()) as news:
                async for item in news:
                    if isinstance(item, TaskState):
                        final = item.final
                    elif item.code == "task_not_found" and not item.retriable:
                        raise UnknownTask(item.message)
                    yield item
            if final:
                return
            await self._sleep(backoff.next())

    def _follow(
        self,
        refs: Sequence[Ref],
        *,
        unreachable_after: float | None,
        selection: tuple[str, str] | None = None,
        cursor: str | None = None,
        history: bool = False,
    ) -> Follow:
        return Follow(
            self._transport,
            refs,
            selection=selection,
            cursor=cursor,
            history=history,
            unreachable_after=unreachable_after,
            backoff=Backoff(self._timeouts, self._rng),
            sleep=self._sleep,
        )

    async def state(
        self, ref: Ref, *, wait: float | None = None, etag: str | None = None, include: Iterable[str] = ()
    ) -> TaskState | None:
        """Return the state of a task; None when it is still the one named by `etag`.

        Args:
            wait: Seconds the bridge may wait for a change, at most 60.
            etag: The cursor of the state already known.
            include: `raw` for the provider's own document, `data` for base64 results.

        Raises:
            UnknownTask: There is no such task.
            BridgeUnreachable: No response; not retried.
        """
        headers = dict(JSON)
        if wait is not None:
            headers["Prefer"] = f"wait={max(0, int(wait))}"
        if etag is not None:
            headers["If-None-Match"] = etag if etag.startswith(('"', "W/", "*")) else f'"{etag}"'
        query = urlencode([("include", part) for part in include])
        path = task_path(ref) + ("?" + query if query else "")
        status, text = await self._transport.call(
            "GET", path, headers=headers, timeout_seconds=TIMEOUT + (wait or 0)
        )
        return None if status == 304 else _state(text)

    @overload
    def download(self, ref: Ref, n: int = 0, *, retries: int = 5) -> AsyncGenerator[bytes, None]: ...

    @overload
    def download(
        self,
        ref: Ref,
        n: int = 0,
        *,
        to: str | os.PathLike[str],
        on_progress: Callable[[int, int | None], object] | None = None,
        retries: int = 5,
    ) -> Coroutine[Any, Any, Path]: ...

    def download(
        self,
        ref: Ref,
        n: int = 0,
        *,
        to: str | os.PathLike[str] | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
        retries: int = 5,
    ) -> AsyncGenerator[bytes, None] | Coroutine[Any, Any, Path]:
        """Download a file of a result through the bridge; it is never held whole.

            path = await bridge.download("veo/operations/abc", to="cat.mp4")

        With `to` it is written to a temporary file beside it, which is renamed once it is whole, and replaces
        what was there. Without `to`, a loop gets the bytes as they come:

            async for chunk in bridge.download("veo/operations/abc"):
                ...

        A cut is continued where it stopped (`Range` with `If-Range`). Where the file has no strong tag and no
        date, or is no longer the same, it starts again, which without `to` is an error.

        Args:
            n: Which of the `outputs` of the state; the first is 0.
            to: Where to; a directory keeps the name that the bridge gives it.
            on_progress: Called with the bytes so far, and with all of them or None where that is not known;
                may be async. What it raises ends the download.
            retries: How many times a cut is continued, in all. What the first request raises is not retried.

        Raises:
            UnknownOutput: The task has ended without it.
            Conflict: The task has not ended.
            UpstreamRefused: The link has expired, and there is no copy.
            UpstreamError: The provider's host cannot be reached.
            BridgeUnreachable: No response, or cut too often.
            OSError: The file cannot be written.
        """
        download = Download(
            self._transport,
            ref,
            n,
            retries=retries,
            backoff=Backoff(self._timeouts, self._rng),
            sleep=self._sleep,
        )
        return download.chunks() if to is None else download.save(to, on_progress)

    async def find(self, upstream: str, alias: str) -> TaskState:
        """Find a task by the client's own id.

        Raises:
            UnknownTask: There is no such task.
        """
        path = f"/v1/aliases/{check_upstream_name(upstream)}/{quote(check_id(alias), safe='')}"
        _, text = await self._transport.call("GET", path, headers=JSON, timeout_seconds=TIMEOUT)
        return _state(text)

    async def submit(
        self,
        upstream: str,
        body: dict[str, Any],
        *,
        options: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        webhook: str | None = None,
        tags: Iterable[str] = (),
        group: str | None = None,
        retry_seconds: float = 0.0,
    ) -> TaskState:
        """Create a task at the provider with `body` unchanged; the bridge watches it.

        One attempt, unless `retry_seconds` allows more: after a `BridgeUnreachable` the task may or may not
        exist. Repeat such a submit with the same `idempotency_key`, and it is created once.

        Args:
            options: Parameters of the provider's call beside the body, such as `{"endpoint": "fal-ai/flux"}`.
            idempotency_key: Names this submit for 24 h: a repetition gets the first answer.
                At most 255 visible ASCII characters, such as a UUID.
            webhook: URL to which the end of the task is delivered; its host must be in `webhook_hosts`.
            tags: Up to 16 words to find the task by: 1 to 64 letters, digits or `.`, `_`, `:`, `-`.
            group: A name that it shares with others, such as those of one batch; a word like a tag.
            retry_seconds: For how long failures that may pass are retried, such as a lost connection or a
                bridge that restarts. All attempts have one key: `idempotency_key`, or a random one.

        Raises:
            Conflict: A submit with this key is still in flight, and `retry_seconds` have passed; or the
                group is closed, which is not retried.
            UpstreamError: With `retryable` false the task may exist, unless the provider rejected it.
            BridgeError: Any other error of the bridge.
        """
        if idempotency_key is None and retry_seconds > 0:
            idempotency_key = str(uuid.uuid4())
        headers = {**JSON, **detail_headers(tags, group)}
        if idempotency_key is not None:
            if not _KEY.fullmatch(idempotency_key):
                raise InvalidRequest("idempotency_key must be 1 to 255 visible ASCII characters")
            headers["Idempotency-Key"] = idempotency_key
        if webhook is not None:
            headers["X-Webhook-URL"] = _url_in_header(webhook)
        query = urlencode(options or {})
        path = f"/v1/tasks/{check_upstream_name(upstream)}" + ("?" + query if query else "")
        encoded = orjson.dumps(body)  # once: the same bytes in each attempt
        # Short delays: a submit in flight ends within seconds.
        timeouts = replace(self._timeouts, max_delay=min(self._timeouts.max_delay, _MAX_SUBMIT_DELAY))
        backoff = Backoff(timeouts, self._rng)
        deadline = asyncio.get_running_loop().time() + retry_seconds
        while True:
            try:
                _, text = await self._transport.call(
                    "POST", path, headers=headers, body=encoded, timeout_seconds=_SUBMITTIMEOUT
                )
                return _state(text)
            except BridgeError as error:
                delay = backoff.next(error.retry_after)
                if not error.retryable or asyncio.get_running_loop().time() + delay > deadline:
                    raise
            await self._sleep(delay)

    async def register(
        self,
        ref: Ref,
        *,
        tags: Iterable[str] = (),
        group: str | None = None,
        deadline_seconds: float | None = None,
        webhook: str | None = None,
    ) -> TaskState:
        """Have the bridge watch a task that was submitted elsewhere, to its end and without a viewer.

        Returns its state, which is `unknown` if the provider has not answered within seconds. With
        `auth = "upstream-key"` the bridge watches it only while it holds the caller's key.

        Idempotent: registered again, it has the tags and the group of this call, also if these are none.

        Args:
            tags: As for `submit`.
            group: As for `submit`.
            deadline_seconds: After its first state it is `lost` if it has not ended by then; None for the
                setting of the upstream.
            webhook: As for `submit`.

        Raises:
            UnknownTask: The provider does not know it.
            Forbidden: The token has no scope `submit`, or may not read the task.
            Conflict: The group is closed.
        """
        body: dict[str, Any] = {"tags": check_tags(words_of(tags))}
        if group is not None:
            body["group"] = check_group(group)
        if deadline_seconds is not None:
            body["deadline_seconds"] = deadline_seconds
        if webhook is not None:
            body["webhook"] = _url_in_header(webhook)
        _, text = await self._transport.call(
            "PUT", task_path(ref), headers=JSON, body=orjson.dumps(body), timeout_seconds=TIMEOUT
        )
        return _state(text)

    async def forget(self, ref: Ref) -> None:
        """Delete a final task from the bridge, not from the provider.

        Raises:
            Conflict: The task is not final.
            UnknownTask: The bridge does not know it.
            Forbidden: The token has no scope `cancel`, or may not read the task.
        """
        await self._transport.call("DELETE", task_path(ref), headers=JSON, timeout_seconds=TIMEOUT)

    async def ticket(
        self, *refs: Ref, tags: Iterable[str] = (), groups: Iterable[str] = (), seconds: int = 300
    ) -> TaskTicket:
        """Return a credential for the URLs of a page, which can only read, and only what is named here.

        Of a tag or group it reads what the caller's own credential could read, also what comes later.

        Args:
            refs: Tasks.
            tags: Tags, such as `user:7`.
            groups: Groups.
            seconds: 1 to 900; never longer than the caller's own credential.

        Raises:
            Forbidden: The caller may not read this.
            Conflict: The bridge issues no tickets: `auth` is `none`, or it has no `ticket_secret`.
        """
        body: dict[str, Any] = {"seconds": seconds}
        if refs:
            body["tasks"] = [ref_of(ref) for ref in refs]
        if words := check_tags(words_of(tags)):
            body["tags"] = words
        if names := [check_group(name) for name in words_of(groups)]:
            body["groups"] = names
        _, text = await self._transport.call(
            "POST", "/v1/tickets", headers=JSON, body=orjson.dumps(body), timeout_seconds=TIMEOUT
        )
        return TaskTicket.parse(text)

    def group(self, name: str) -> Group:
        """Return the calls of one group: `watch`, `close`, `results`. Nothing is requested.

        Raises:
            InvalidRequest: `name` cannot be a group.
        """
        return Group(self, self._transport, name)

    async def list_page(
        self,
        *,
        upstream: str | None = None,
        status: Statuses | None = None,
        tag: str | None = None,
        group: str | None = None,
        limit: int = MAX_PAGE,
        before: str | None = None,
    ) -> ListPage:
        """Return one page of the tasks that the caller may see, the newest first.

        Args:
            upstream: Only of this upstream.
            status: Only with this status, or one of these; `open` and `final` are all open, all final ones.
            tag: Only with this tag.
            group: Only of this group.
            limit: How many, at most 200.
            before: The `next` of the page before.

        Raises:
            InvalidRequest: A name is malformed, or `before` is not from a page.
        """
        path = page_query(upstream=upstream, status=status, tag=tag, group=group, limit=limit, before=before)
        _, text = await self._transport.call("GET", path, headers=JSON, timeout_seconds=TIMEOUT)
        return ListPage.parse(text)

    async def list(
        self,
        *,
        upstream: str | None = None,
        status: Statuses | None = None,
        tag: str | None = None,
        group: str | None = None,
        limit: int | None = None,
    ) -> AsyncGenerator[TaskState, None]:
        """Yield the tasks that the caller may see, the newest first, by when they were first seen.

        A page is requested when the loop comes to it. Nothing is skipped or repeated while tasks change.

        Args:
            upstream: Only of this upstream.
            status: Only with this status, or one of these; `open` and `final` are all open, all final ones.
            tag: Only with this tag.
            group: Only of this group.
            limit: How many at most; None for all.

        Raises:
            InvalidRequest: A name is malformed.
        """
        left, before = limit, None
        while left is None or left > 0:
            page = await self.list_page(
                upstream=upstream,
                status=status,
                tag=tag,
                group=group,
                limit=MAX_PAGE if left is None else left,
                before=before,
            )
            for state in page.tasks:
                yield state
            if (before := page.next) is None:
                return
            left = None if left is None else left - len(page.tasks)

    async def cancel(self, ref: Ref) -> TaskState:
        """Ask the provider to cancel. Returns the resulting state, which need not be `cancelled` yet."""
        path = task_path(ref, "/cancel")
        _, text = await self._transport.call("POST", path, headers=JSON, body=b"{}", timeout_seconds=TIMEOUT)
        return _state(text)


def _url_in_header(url: str) -> str:
    """Return a URL as a header can hold it.

    Raises:
        InvalidRequest: It is not a URL.
    """
    try:
        text = str(URL(url))
    except ValueError:
        text = ""
    if not text.isascii() or not text.isprintable() or "://" not in text:
        raise InvalidRequest("webhook must be a URL such as https://app.example/webhooks")
    return text


async def _states(
    follow: Follow, on_notice: Callable[[TaskNotice], object] | None
) -> AsyncGenerator[TaskState, None]:
    async with aclosing(follow.news()) as news:
        async for item in news:
            if isinstance(item, TaskState):
                yield item
            else:
                await call_back(on_notice, item)


def _state(text: bytes) -> TaskState:
    """Parse the state in a response, with or without links."""
    document = read_json(text)
    if isinstance(document, dict):
        document = document.get("state", document)
    return TaskState.of(document)
