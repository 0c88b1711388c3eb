"""The client for programs without an event loop of their own: scripts, notebooks, Django, Flask, Celery.

An event loop in a thread of its own runs the async client, so both behave the same. The thread starts with
the first call: what only constructs a `SyncBridge` before it forks (`gunicorn --preload`) has none to lose.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import selectors
import threading
import weakref
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from bridge.client.state import TaskNotice, TaskState
from bridge.client.sync_webhooks import SyncWebhookAdmin
from bridge.client.tasks import MAX_PAGE
from bridge.core.details import check_group

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    import aiohttp

    from bridge.client.state import Ref
    from bridge.client.tasks import ClosedGroup, ListPage, Statuses, TaskTicket
    from bridge.client.webhooks import WebhookAdmin

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_STOP_SECONDS = 5.0
_CLOSED = "this SyncBridge is closed"
_FORKED = "this watch belongs to the process that forked this one"
_DEFAULT_TIMEOUTS = Timeouts()


class SyncBridge:
    """Client of the bridge at `url`, without `await`.

        with SyncBridge("http://127.0.0.1:8080") as bridge:
            for state in bridge.watch("qingbo/task-1"):
                print(state.status, state.progress)

    One instance serves all threads of a process, and each process forked from it. Without `with`, call
    `close`, or leave it to the end of the program.

    Callbacks run in the thread of the call. In async code use `Bridge`: each method here blocks its thread.

    Args:
        url: Address of the bridge, such as `https://bridge.example.com`; a path prefix is kept.
        token: The bearer token, or a callable that returns it; called in another thread, before every request
            and every reconnect.
        ca_file: PEM file with the certificates to trust, instead of the system's.
        session_factory: Returns an aiohttp session (proxies, client certificates), called in a running event
            loop; the session is closed with the client.
        timeouts: Timeouts of watches; the defaults match the bridge's own.
        rng: Source of the jitter of reconnects.
    """

    def __init__(
        self,
        url: str,
        token: str | Callable[[], str | None] | None = None,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        session_factory: Callable[[], aiohttp.ClientSession] | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        rng: random.Random | None = None,
    ) -> None:
        credential = partial(asyncio.to_thread, token) if callable(token) else token
        self._make = partial(Bridge, url, credential, ca_file=ca_file, timeouts=timeouts, rng=rng)
        self._make()  # a malformed address is an error here, not at the first call
        self._session_factory = session_factory
        self._loop: _LoopThread | None = None
        self._lock = threading.Lock()
        self._closed = False
        _instances.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Calls of other threads end with a `RuntimeError`."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def watch(
        self,
        *refs: Ref,
        tag: str | None = None,
        group: str | None = None,
        last_event_id: str | None = None,
        history: bool = False,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> Generator[TaskState, None, None]:
        """Yield the states of one or many tasks, or of a tag or group, until every task is final.

        As `Bridge.watch`, arguments and errors included. To stop early and close the connection at once, call
        `close()` of the generator, or wrap it in `contextlib.closing`.
        """
        feed: _News[None] = _Feed(self._running())
        states = feed.bridge.watch(
            *refs,
            tag=tag,
            group=group,
            last_event_id=last_event_id,
            history=history,
            on_notice=feed.put,
            unreachable_after=unreachable_after,
        )
        return _states(feed, states, on_notice)

    def result(
        self,
        ref: Ref,
        *,
        timeout: float | None = None,
        on_state: Callable[[TaskState], object] | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> TaskState:
        """Wait until a task is final; return the final state if it completed.

        As `Bridge.result`, arguments and errors included.
        """
        feed: _News[TaskState] = _Feed(self._running())
        produce = partial(
            feed.bridge.result,
            ref,
            timeout=timeout,
            on_state=feed.put,
            on_notice=feed.put,
            unreachable_after=unreachable_after,
        )
        return _outcome(feed, produce, on_state, on_notice)

    def state(
        self, ref: Ref, *, wait: float | None = None, etag: str | None = None, include: Iterable[str] = ()
    ) -> TaskState | None:
        """Return the state of a task; None when it is still the one named by `etag`. As `Bridge.state`."""
        loop = self._running()
        return loop.run(loop.bridge.state(ref, wait=wait, etag=etag, include=include))

    @overload
    def download(self, ref: Ref, n: int = 0, *, retries: int = 5) -> Generator[bytes, None, None]: ...

    @overload
    def download(
        self,
        ref: Ref,
        n: int = 0,
        *,
        to: str | os.PathLike[str],
        on_progress: Callable[[int, int | None], object] | None = None,
        retries: int = 5,
    ) -> Path: ...

    def download(
        self,
        ref: Ref,
        n: int = 0,
        *,
        to: str | os.PathLike[str] | None = None,
        on_progress: Callable[[int, int | None], object] | None = None,
        retries: int = 5,
    ) -> Generator[bytes, None, None] | Path:
        """Download a file of a result to a path; without `to`, yield its bytes. As `Bridge.download`."""
        loop = self._running()
        if to is None:
            return _items(_Feed(loop), loop.bridge.download(ref, n, retries=retries))
        feed: _Feed[tuple[int, int | None], Path] = _Feed(loop)

        def report(came: int, size: int | None) -> Awaitable[None]:
            return feed.put((came, size))

        async def produce() -> Path:
            told = on_progress and report
            return await loop.bridge.download(ref, n, to=to, on_progress=told, retries=retries)

        with feed.started(produce):
            while (item := feed.next()) is not None:
                assert on_progress is not None
                on_progress(*item)
            return feed.outcome()

    def find(self, upstream: str, alias: str) -> TaskState:
        """Find a task by the client's own id. As `Bridge.find`."""
        loop = self._running()
        return loop.run(loop.bridge.find(upstream, alias))

    def submit(
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
        """Create a task at the provider with `body` unchanged; the bridge watches it. As `Bridge.submit`."""
        loop = self._running()
        return loop.run(
            loop.bridge.submit(
                upstream,
                body,
                options=options,
                idempotency_key=idempotency_key,
                webhook=webhook,
                tags=tags,
                group=group,
                retry_seconds=retry_seconds,
            )
        )

    def register(
        self,
        ref: Ref,
        *,
        tags: Iterable[str] = (),
        group: str | None = None,
        deadline_seconds: float | None = None,
        webhook: str | None = None,
    ) -> TaskState:
        """Have the bridge watch a task that was submitted elsewhere. As `Bridge.register`."""
        loop = self._running()
        return loop.run(
            loop.bridge.register(
                ref, tags=tags, group=group, deadline_seconds=deadline_seconds, webhook=webhook
            )
        )

    def forget(self, ref: Ref) -> None:
        """Delete a final task from the bridge. As `Bridge.forget`."""
        loop = self._running()
        loop.run(loop.bridge.forget(ref))

    def ticket(
        self, *refs: Ref, tags: Iterable[str] = (), groups: Iterable[str] = (), seconds: int = 300
    ) -> TaskTicket:
        """Return a credential for the URLs of a page. As `Bridge.ticket`."""
        loop = self._running()
        return loop.run(loop.bridge.ticket(*refs, tags=tags, groups=groups, seconds=seconds))

    def group(self, name: str) -> SyncGroup:
        """Return the calls of one group: `watch`, `close`, `results`. As `Bridge.group`."""
        return SyncGroup(self, self._running, name)

    def list_page(
        self,
        *,
        upstream: str | None = None,
        status: Statuses | None = None,
        tag: str | None = None,
        group: str | None = None,
        limit: int = MAX_PAGE,
        before: str | None = None,
    ) -> ListPage:
        """Return one page of the tasks that the caller may see. As `Bridge.list_page`."""
        loop = self._running()
        return loop.run(
            loop.bridge.list_page(
                upstream=upstream, status=status, tag=tag, group=group, limit=limit, before=before
            )
        )

    def list(
        self,
        *,
        upstream: str | None = None,
        status: Statuses | None = None,
        tag: str | None = None,
        group: str | None = None,
        limit: int | None = None,
    ) -> Generator[TaskState, None, None]:
        """Yield the tasks that the caller may see, the newest first. As `Bridge.list`."""
        left, before = limit, None
        while left is None or left > 0:
            page = self.list_page(
                upstream=upstream,
                status=status,
                tag=tag,
                group=group,
                limit=MAX_PAGE if left is None else left,
                before=before,
            )
            yield from page.tasks
            if (before := page.next) is None:
                return
            left = None if left is None else left - len(page.tasks)

    def cancel(self, ref: Ref) -> TaskState:
        """Ask the provider to cancel. As `Bridge.cancel`."""
        loop = self._running()
        return loop.run(loop.bridge.cancel(ref))

    @property
    def webhooks(self) -> SyncWebhookAdmin:
        """The calls that administer webhooks, for tokens with the scope `admin`. As `Bridge.webhooks`."""

        def run(call: Callable[[WebhookAdmin], Coroutine[Any, Any, Outcome]]) -> Outcome:
            loop = self._running()
            return loop.run(call(loop.bridge.webhooks))

        return SyncWebhookAdmin(run)

    def _running(self) -> _LoopThread:
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._loop is None:
                self._loop = _LoopThread(self._make, self._session_factory)
                # also at the end of the program, and when the caller drops this object without closing it
                weakref.finalize(self, self._loop.stop)
            return self._loop

    def _forked(self) -> None:
        """In a forked process: the thread stayed behind, and may have held the lock."""
        self._lock = threading.Lock()
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.abandon()


class SyncGroup:
    """The tasks that were submitted or registered with one group, as `SyncBridge.group(name)`.

    Attributes:
        name: The name of the group.
    """

    def __init__(self, bridge: SyncBridge, running: Callable[[], _LoopThread], name: str) -> None:
        self._bridge = bridge
        self._running = running
        self.name = check_group(name)

    def watch(
        self,
        *,
        last_event_id: str | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> Generator[TaskState, None, None]:
        """Yield the states of its tasks until it is closed and all are final. As `Group.watch`."""
        return self._bridge.watch(
            group=self.name,
            last_event_id=last_event_id,
            on_notice=on_notice,
            unreachable_after=unreachable_after,
        )

    def close(self) -> ClosedGroup:
        """Close it: no more tasks can be added. As `Group.close`."""
        loop = self._running()
        return loop.run(loop.bridge.group(self.name).close())

    def results(
        self,
        *,
        timeout: float | None = None,
        on_state: Callable[[TaskState], object] | None = None,
        on_notice: Callable[[TaskNotice], object] | None = None,
        unreachable_after: float | None = None,
    ) -> dict[str, TaskState]:
        """Wait until it is closed and all of it is final; return the final states, by ref.

        As `Group.results`, arguments and errors included.
        """
        feed: _News[dict[str, TaskState]] = _Feed(self._running())
        produce = partial(
            feed.bridge.group(self.name).results,
            timeout=timeout,
            on_state=feed.put,
            on_notice=feed.put,
            unreachable_after=unreachable_after,
        )
        return _outcome(feed, produce, on_state, on_notice)


def _outcome(
    feed: _News[Outcome],
    produce: Callable[[], Coroutine[Any, Any, Outcome]],
    on_state: Callable[[TaskState], object] | None,
    on_notice: Callable[[TaskNotice], object] | None,
) -> Outcome:
    """Return what `produce` returns; the callbacks run in this thread."""
    with feed.started(produce):
        while (item := feed.next()) is not None:
            if isinstance(item, TaskState):
                if on_state is not None:
                    on_state(item)
            elif on_notice is not None:
                on_notice(item)
        return feed.outcome()


def _states(
    feed: _News[None],
    states: AsyncGenerator[TaskState, None],
    on_notice: Callable[[TaskNotice], object] | None,
) -> Generator[TaskState, None, None]:
    for item in _items(feed, states):
        if isinstance(item, TaskState):
            yield item
        elif on_notice is not None:
            on_notice(item)


def _items(feed: _Feed[Item, None], source: AsyncGenerator[Any, None]) -> Generator[Item, None, None]:
    """Yield what `source` yields, and what else is put into the feed."""

    async def produce() -> None:
        async with aclosing(source):
            async for item in source:
                await feed.put(item)

    with feed.started(produce):
        while (item := feed.next()) is not None:
            yield item


class _LoopThread:
    """An event loop in a thread of its own, with the async client.

    Args:
        make: Returns the client; takes its session as `session=`.
    """

    def __init__(
        self, make: Callable[..., Bridge], session_factory: Callable[[], aiohttp.ClientSession] | None
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._stopping = asyncio.Event()
        self._abandoned = False
        self._ready: concurrent.futures.Future[Bridge] = concurrent.futures.Future()
        self._thread = threading.Thread(
            target=self._serve, args=(make, session_factory), name="SyncBridge", daemon=True
        )
        self._thread.start()
        try:
            self.bridge = self._ready.result()
        except BaseException:
            self.stop()
            raise

    def run(self, call: Coroutine[Any, Any, Outcome], *, timeout: float | None = None) -> Outcome:
        """Run a coroutine of the client; wait for what it returns.

        Cancellation: what interrupts this thread meanwhile (Ctrl-C, the time limit of a worker) cancels it.
        """
        if not self.reachable:
            call.close()
            raise RuntimeError(_FORKED if self._abandoned else "a SyncBridge cannot wait for itself")
        try:
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:  # the loop is closed
            call.close()
            raise RuntimeError(_CLOSED) from None
        try:
            return future.result(timeout)
        except concurrent.futures.CancelledError:
            raise RuntimeError(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise
        finally:
            del future  # it holds the error, whose traceback holds this frame

    def post(self, call: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine without waiting for it."""
        try:
            asyncio.run_coroutine_threadsafe(call, self._loop)
        except RuntimeError:
            call.close()

    @property
    def reachable(self) -> bool:
        """Whether this thread may wait for the loop."""
        return not self._abandoned and threading.current_thread() is not self._thread

    def stop(self) -> None:
        """Cancel all calls, close the connections and end the thread."""
        if self._abandoned:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self.reachable:
            self._thread.join(_STOP_SECONDS)

    def abandon(self) -> None:
        """Give up the loop of the process that forked this one, without touching its connections.

        The descriptors are shared with that process. Replaced by the null device they can be closed, in any
        order and by any finalizer, and nothing reaches the bridge or the poll set of the other process.
        """
        self._abandoned = True
        self._loop.set_exception_handler(lambda *_: None)  # "Unclosed client session" at the end
        descriptors = [key.fd for key in (self._selector.get_map() or {}).values()]
        if hasattr(self._selector, "fileno"):
            descriptors.append(self._selector.fileno())
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in descriptors:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        _abandoned.append(self)

    def _serve(
        self, make: Callable[..., Bridge], session_factory: Callable[[], aiohttp.ClientSession] | None
    ) -> None:
        # asyncio.Runner would start a thread to end its executor, which fails at the end of the program.
        try:
            self._loop.run_until_complete(self._main(make, session_factory))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    async def _main(
        self, make: Callable[..., Bridge], session_factory: Callable[[], aiohttp.ClientSession] | None
    ) -> None:
        try:
            session = session_factory() if session_factory is not None else None
            bridge = await make(session=session).__aenter__()
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the caller
            self._ready.set_exception(error)
            return
        self._ready.set_result(bridge)
        try:
            await self._stopping.wait()
        finally:
            calls = asyncio.all_tasks() - {asyncio.current_task()}
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await bridge.__aexit__(None, None, None)
            if session is not None:
                await session.close()


class _Feed(Generic[Item, Outcome]):
    """Hands over what a coroutine of the loop produces, one item at a time, to the thread of the caller."""

    def __init__(self, loop: _LoopThread) -> None:
        self.bridge = loop.bridge
        self._loop = loop
        self._items: asyncio.Queue[Item] = asyncio.Queue(1)
        self._task: asyncio.Task[Outcome] | None = None

    def put(self, item: Item) -> Awaitable[None]:
        """Hand over an item, in the loop; waits until the one before was taken."""
        return self._items.put(item)

    @contextlib.contextmanager
    def started(self, produce: Callable[[], Coroutine[Any, Any, Outcome]]) -> Generator[None, None, None]:
        """Run `produce` within the block."""
        try:
            self._loop.run(self._start(produce))
            yield
        finally:
            self._stop()

    def next(self) -> Item | None:
        """Wait for the next item; None when there are no more.

        Raises:
            Exception: What the coroutine raised.
        """
        return self._loop.run(self._next())

    def outcome(self) -> Outcome:
        """Return what the coroutine returned, after the last item."""
        assert self._task is not None
        return self._task.result()

    async def _start(self, produce: Callable[[], Coroutine[Any, Any, Outcome]]) -> None:
        self._task = asyncio.create_task(produce())

    async def _next(self) -> Item | None:
        assert self._task is not None
        getting = asyncio.create_task(self._items.get())
        try:
            await asyncio.wait((getting, self._task), return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
        finally:
            getting.cancel()
        self._task.result()
        return None

    def _stop(self) -> None:
        """Close the connection. Runs in whichever thread drops a generator, the loop's own included."""
        if self._task is None or self._task.done():
            return
        if not self._loop.reachable:
            self._loop.post(self._cancel())
            return
        with contextlib.suppress(RuntimeError, TimeoutError):
            self._loop.run(self._cancel(), timeout=_STOP_SECONDS)

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


_News = _Feed[TaskState | TaskNotice, Outcome]
_instances: weakref.WeakSet[SyncBridge] = weakref.WeakSet()
_abandoned: list[_LoopThread] = []


def _after_fork() -> None:
    for instance in list(_instances):
        instance._forked()  # noqa: SLF001 - a hook of the interpreter, for this module alone


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
