"""The small signal and inbox do what asyncio's do."""

from __future__ import annotations

import asyncio

import pytest

from bridge.server.waiting import Inbox, Signal

pytestmark = pytest.mark.anyio


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_signal_that_is_set_does_not_wait() -> None:
    assert await Signal(is_set=True).wait()


async def test_all_continue_who_wait_also_if_it_is_cleared_at_once() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait()) for _ in range(3)]
    await _settle()
    assert not any(task.done() for task in waiting)
    signal.set()
    signal.clear()
    await _settle()
    assert all(task.done() for task in waiting)
    assert not signal.is_set()
    later = asyncio.create_task(signal.wait())
    await _settle()
    assert not later.done()
    later.cancel()


async def test_one_that_is_cancelled_leaves_the_others() -> None:
    signal = Signal()
    first, second = (asyncio.create_task(signal.wait()) for _ in range(2))
    await _settle()
    first.cancel()
    signal.set()
    await _settle()
    assert first.cancelled()
    assert second.result()


async def test_an_inbox_is_read_in_order() -> None:
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await _settle()
    for number in range(3):
        inbox.put_nowait(number)
    assert [await reading, await inbox.get(), await inbox.get()] == [0, 1, 2]
    assert inbox.empty()


async def test_a_reader_that_is_cancelled_takes_nothing() -> None:
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await _settle()
    inbox.put_nowait("first")
    reading.cancel()
    await _settle()
    assert reading.cancelled()
    assert await inbox.get() == "first"
