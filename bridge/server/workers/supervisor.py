"""Starts the workers, replaces those that end, and stops them: the parent process of `serve --workers N`.

It holds the listening sockets and accepts from none: each is lent to a worker. If a worker dies or hangs, no
connection that waits in its queue is lost, because another worker accepts it.

Rule 1: SIGTERM and SIGINT drain all workers at once; a second signal stops them at once.
Rule 2: SIGHUP replaces them one after another; each successor serves before the old worker drains.
Rule 3: a worker that ends is started again, at once if it had run for long. If workers cannot start five
        times in a minute, the service ends.
Rule 4: workers end with this process, also if it is killed.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from bridge.config.effective import stop_seconds
from bridge.errors import ConfigError
from bridge.server.workers.control import Message
from bridge.server.workers.launching import Launch
from bridge.server.workers.process import WorkerProcess, WorkerState
from bridge.server.workers.whole import WholeService

START_SECONDS = 60.0
MAX_FAILED_STARTS = 5
FAILED_STARTS_SECONDS = 60.0
BACK_OFF_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_SECONDS = 30.0  # a worker that ran for so long is started again at once
CHECK_SECONDS = 0.25
SILENT_SECONDS = 1.25  # without a message for so long, others accept in its place
REPORTED_CHECKS = 8  # in a row: it is logged
HUNG_CHECKS = 240  # in a row: it is killed
KILL_MARGIN_SECONDS = 5.0
STOP_SECONDS = 5.0  # after the second signal

FAILED = 1
PERMANENT_CODES = frozenset({2})  # a wrong setting stays wrong

logger = logging.getLogger("bridge")


class _CannotStart(Exception):
    """The message says why; `code` is the worker's exit code."""

    def __init__(self, reason: str, code: int = FAILED) -> None:
        super().__init__(reason)
        self.code = code


class Supervisor:
    """All workers of the service.

    Args:
        launch: What workers are started with.
        listeners: Of the service's address: one for each worker, or one for all.
        admin: Of the separate admin address; None without one.
        connect: Connects a new worker with the keeper, and returns the worker's end; None without a keeper.
        reload: Reads the settings again, for SIGHUP; raises `ConfigError`.
        started: Called once, when all workers serve for the first time.
    """

    def __init__(
        self,
        launch: Launch,
        listeners: Sequence[socket.socket],
        admin: socket.socket | None,
        *,
        connect: Callable[[], socket.socket] | None,
        reload: Callable[[], Launch],
        started: Callable[[], None],
    ) -> None:
        self._launch = launch
        self._listeners = listeners
        self._admin = admin
        self._connect = connect
        self._reload = reload
        self._started = started
        self._numbers = range(1, launch.settings.workers + 1)
        self._current: dict[int, WorkerProcess] = {}  # those that serve
        self._running: dict[WorkerProcess, asyncio.Task[None]] = {}  # all that have not ended
        self._whole = WholeService(self._running)
        self._failed_starts: defaultdict[int, deque[float]] = defaultdict(deque)
        self._missed: dict[WorkerProcess, int] = {}
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._replacing: asyncio.Task[None] | None = None
        self._replace_again = False
        self._code = 0

    async def run(self) -> int:
        """Run until a signal or a failure ends the service; the exit code."""
        with self._signals():
            tasks = [asyncio.ensure_future(self._keep(number)) for number in self._numbers]
            tasks.append(asyncio.ensure_future(self._check()))
            for task in tasks:
                task.add_done_callback(self._ended_unexpectedly)
            await self._stopping.wait()
            tasks += filter(None, [self._replacing])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._stop()
        return self._code

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGHUP: self._on_replace,
        }
        # What a shell or `nohup` ignores on our behalf stays ignored.
        handlers = {sig: on for sig, on in handlers.items() if signal.getsignal(sig) is not signal.SIG_IGN}
        for sig, on in handlers.items():
            loop.add_signal_handler(sig, on)
        try:
            yield
        finally:
            for sig in handlers:
                loop.remove_signal_handler(sig)

    # Starting

    async def _keep(self, number: int) -> None:
        """Have a worker with this number, until the service ends."""
        loop = asyncio.get_running_loop()
        ended_soon = 0
        while True:
            worker = self._current.get(number)
            if worker is None:
                try:
                    worker = await self._start(number)
                except _CannotStart as error:
                    self._fail(f"worker {number} cannot start: {error}", error.code)
                    return
                self._serves(number, worker)
            await worker.over()
            if self._current.get(number) is not worker:
                continue  # replaced
            del self._current[number]
            self._lend()
            steady = loop.time() - worker.started_at >= STEADY_SECONDS
            ended_soon = 0 if steady else min(ended_soon + 1, len(BACK_OFF_SECONDS) - 1)
            await asyncio.sleep(BACK_OFF_SECONDS[max(ended_soon - 1, 0)])

    async def _start(self, number: int) -> WorkerProcess:
        """Start a worker, as often as it takes; returns it once it serves.

        Raises:
            _CannotStart: It failed too often, or will always fail.
        """
        loop = asyncio.get_running_loop()
        failed = 0
        while True:
            try:
                return await self._try_start(number)
            except _CannotStart as error:
                logger.error(  # noqa: TRY400 - the reason is all there is
                    "worker cannot start", extra={"worker": number, "reason": str(error), "code": error.code}
                )
                times = self._failed_starts[number]
                times.append(loop.time())
                while times[-1] - times[0] > FAILED_STARTS_SECONDS:
                    times.popleft()
                if len(times) >= MAX_FAILED_STARTS or error.code in PERMANENT_CODES:
                    raise
            failed = min(failed + 1, len(BACK_OFF_SECONDS) - 1)
            await asyncio.sleep(BACK_OFF_SECONDS[failed])

    async def _try_start(self, number: int) -> WorkerProcess:
        listeners = [listener.fileno() for listener in self._listeners]
        admin = None if self._admin is None else self._admin.fileno()
        inherited = listeners if admin is None else [*listeners, admin]
        keeper = None if self._connect is None else self._connect()
        try:
            worker = await WorkerProcess.start(number, inherited, keeper)
        except OSError as error:
            raise _CannotStart(f"no process can be started: {error.strerror or error}") from None
        self._running[worker] = asyncio.ensure_future(self._run(worker))
        worker.send("start", listeners=listeners, admin=admin, **self._launch.fields())
        try:
            async with asyncio.timeout(START_SECONDS):
                if await worker.started():
                    return worker
        except BaseException as error:
            worker.kill()
            if isinstance(error, TimeoutError):
                raise _CannotStart(f"it does not serve after {START_SECONDS:g} seconds") from None
            raise
        raise _CannotStart(worker.reason or worker.how_ended(), worker.code or FAILED)

    async def _run(self, worker: WorkerProcess) -> None:
        await worker.run(self._handle)
        # At once: no scrape may see a smaller sum than the one before.
        self._whole.ended(worker)
        del self._running[worker]
        self._missed.pop(worker, None)
        expected = self._stopping.is_set() or worker.returncode == 0
        level = logging.INFO if expected else logging.ERROR
        extra = {"worker": worker.number, "pid": worker.pid, "how": worker.how_ended()}
        logger.log(level, "worker ended", extra=extra)
        if self._stopping.is_set() and worker.returncode and worker.was_ready and not self._stop_now.is_set():
            self._code = self._code or FAILED

    def _handle(self, worker: WorkerProcess, message: Message) -> None:
        match message.kind:
            case "leaving":
                self._lend()
            case _ if self._missed.pop(worker, 0):
                worker.silent = False
                self._lend()
        self._whole.handle(worker, message)

    # Listeners

    def _serves(self, number: int, worker: WorkerProcess) -> None:
        """The worker takes its place among those that accept."""
        self._current[number] = worker
        self._lend()
        if len(self._current) == len(self._numbers) and self._started is not _nothing:
            started, self._started = self._started, _nothing
            started()

    def _lend(self) -> None:
        """Send every worker the listeners that it accepts from: its own, and those of workers that do not."""
        able = [one for one in self._current.values() if one.state is WorkerState.READY]
        able = [one for one in able if one not in self._missed] or able
        if not able:
            return  # connections wait in the queues
        lent: dict[WorkerProcess, list[int]] = {worker: [] for worker in self._running}
        for at in range(len(self._listeners)):
            own = self._current.get(at + 1)
            if len(self._listeners) < len(self._numbers):
                takers = able  # one listener for all
            else:
                takers = [own if own in able else min(able, key=lambda worker: len(lent[worker]))]
            for worker in takers:
                lent[worker].append(at)
        for worker, numbers in lent.items():
            # One that is silent keeps its own: should it wake, both accept.
            if numbers != worker.listeners and worker not in self._missed:
                worker.listeners = numbers
                worker.send("accept", listeners=numbers)

    async def _check(self) -> None:
        """Find workers that no longer report; counted in checks, because this process may be stopped too."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for worker in self._current.values():
                if loop.time() - worker.heard_at < SILENT_SECONDS:
                    continue
                self._missed[worker] = missed = self._missed.get(worker, 0) + 1
                extra = {"worker": worker.number, "pid": worker.pid}
                worker.silent = True
                if missed == 1:
                    self._lend()
                elif missed == REPORTED_CHECKS:
                    logger.warning("worker does not respond", extra=extra)
                elif missed >= HUNG_CHECKS:
                    logger.error("worker hangs and is killed", extra=extra)
                    worker.kill()

    # Replacing

    def _on_replace(self) -> None:
        if self._replacing is not None and not self._replacing.done():
            self._replace_again = True
            return
        self._replacing = asyncio.ensure_future(self._replace_all())
        self._replacing.add_done_callback(self._ended_unexpectedly)

    async def _replace_all(self) -> None:
        """Replace every worker, one after another, by one with the settings as they are now."""
        self._replace_again = True
        while self._replace_again:
            self._replace_again = False
            try:
                self._launch = self._reload()
            except ConfigError as error:
                logger.error("workers not replaced", extra={"reason": str(error)})  # noqa: TRY400
                continue
            logger.info("replacing workers")
            for number in self._numbers:
                if not await self._replace(number):
                    break
            else:
                logger.info("workers replaced")

    async def _replace(self, number: int) -> bool:
        old = self._current.get(number)
        if old is None:
            return True  # its successor, which is being started, has the new settings
        try:
            new = await self._try_start(number)
        except _CannotStart as error:
            extra = {"worker": number, "reason": str(error)}
            logger.error("worker not replaced", extra=extra)  # noqa: TRY400
            return False
        if self._current.get(number) not in (old, None):  # it had died, and has a successor already
            old, new = new, self._current[number]
        self._serves(number, new)
        old.leave(replaced=True)
        await old.ended_within(stop_seconds(self._launch.settings) + KILL_MARGIN_SECONDS)
        return True

    # Stopping

    def _on_stop(self) -> None:
        if self._stopping.is_set():
            self._stop_now.set()
        else:
            logger.info("draining", extra={"workers": len(self._running)})
            self._stopping.set()

    def _ended_unexpectedly(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            logger.critical("unhandled exception in supervisor", exc_info=task.exception())
            self._fail("unhandled exception", FAILED)

    def _fail(self, reason: str, code: int) -> None:
        logger.error("service ends", extra={"reason": reason})
        self._code = code if code in PERMANENT_CODES else FAILED
        self._stopping.set()

    async def _stop(self) -> None:
        """Drain all workers; stop them at the second signal; kill those that still run after their time."""
        for worker in self._running:
            worker.leave(replaced=False)
        over = asyncio.ensure_future(self._all_ended())
        now = asyncio.ensure_future(self._stop_now.wait())
        grace = stop_seconds(self._launch.settings) + KILL_MARGIN_SECONDS
        await asyncio.wait((over, now), timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        for worker in self._running:
            worker.send("stop")
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(over), STOP_SECONDS if self._stop_now.is_set() else 0.1)
        for worker in self._running:
            worker.kill()
        await over

    async def _all_ended(self) -> None:
        while self._running:
            await asyncio.wait(self._running.values())


def _nothing() -> None:
    """After `started` was called."""
