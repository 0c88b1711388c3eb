"""Bodies share memory, first come first served, and never wait for each other without end."""

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.sources.body_memory import UNCOUNTED_BYTES, BodyMemory

pytestmark = pytest.mark.anyio

KIB, MIB = 1024, 1024 * 1024


async def settled():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_small_body_takes_nothing():
    memory = BodyMemory(MIB, largest=MIB)
    with memory.share() as share:
        assert share.covers(UNCOUNTED_BYTES)
        assert not share.covers(UNCOUNTED_BYTES + 1)
    assert memory.free == MIB


async def test_the_next_body_is_read_when_there_is_room():
    memory = BodyMemory(2 * MIB, largest=MIB)
    first, second, third = (memory.share() for _ in range(3))
    await first.grow(MIB, MIB)
    await second.grow(MIB, MIB)
    waiting = asyncio.create_task(third.grow(MIB, MIB))
    await settled()
    assert not waiting.done()
    memory.give_back(first)
    await waiting
    for share in (second, third):
        memory.give_back(share)
    assert memory.free == 2 * MIB


async def test_a_wait_that_is_given_up_keeps_nothing_from_the_others():
    memory = BodyMemory(MIB, largest=MIB)
    first, second, third = (memory.share() for _ in range(3))
    await first.grow(MIB, MIB)
    given_up, waiting = (asyncio.create_task(share.grow(MIB, MIB)) for share in (second, third))
    await settled()
    given_up.cancel()
    await settled()
    memory.give_back(first)
    await waiting
    memory.give_back(third)
    assert (memory.free, second.taken) == (MIB, 0)


@given(st.lists(st.tuples(st.integers(0, 4 * MIB), st.booleans()), max_size=12), st.integers(0, 9))
def test_half_read_bodies_never_wait_for_each_other_without_end(bodies, seed):
    asyncio.run(read_all(bodies, random.Random(seed)))


async def read_all(bodies, rng):
    limit = 4 * MIB
    memory = BodyMemory(6 * MIB, largest=limit)

    async def read(size, *, breaks):
        with memory.share() as share:
            for reached in range(0, size + 1, 300 * KIB):
                if not share.covers(reached):
                    await share.grow(reached, limit)
                assert share.covers(reached)
                assert memory.free >= 0
                if breaks and reached > size / 2:
                    return
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(*(read(size, breaks=breaks) for size, breaks in bodies))
    assert memory.free == 6 * MIB
