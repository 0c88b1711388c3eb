"""The user that the pages give to bridges: it can do all that an engine does, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.address import parse_address
from bridge.engine.base import ApplyOutcome, End, Job, Mode, Release, Report, Take, Want
from bridge.engine.redis.connect import ServerAccess
from bridge.engine.redis.engine import RedisEngine
from bridge.engine.redis.link import EngineLimits
from bridge.telemetry.engine_metrics import OPERATIONS
from tests.deploy.manifests import DEPLOY
from tests.docs.pages import PAGES
from tests.fakes.engines import require, state_of
from tests.fakes.redis_engines import RedisMaker
from tests.fakes.redis_servers import RedisServer

pytestmark = pytest.mark.anyio

(USER,) = re.findall(r"^user bridge (.+)$", PAGES["docs/replicas.md"], re.MULTILINE)
TASK, OTHER = TaskKey("video", "one"), TaskKey("video", "two")


@pytest.fixture(params=["valkey", "redis7", "redis62"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server with the user, and none that needs no password."""
    require(RedisMaker(request.param))
    with RedisServer(request.param) as running:
        words = USER.replace("PASSWORD", "a-password").split()
        assert running.ask("ACL", "SETUSER", "bridge", *words) == "+OK\r\n"
        assert running.ask("SET", "of-another-program", "1") == "+OK\r\n"
        yield running


async def test_every_operation_is_permitted(server: RedisServer) -> None:  # noqa: PLR0915 - a line for each
    access = ServerAccess(
        address=parse_address(f"redis://bridge@127.0.0.1:{server.port}"), password="a-password", timeout=20.0
    )
    engine = RedisEngine(access, name="bridge", limits=EngineLimits())
    await engine.connect()
    done: set[str] = set()

    async def do(name: str, *words: object, **options: object) -> object:
        done.add(name)
        return await getattr(engine, name)(*words, **options)

    try:
        for opens in (True, False):
            await do("session", "a", ttl=30, known_head=0, new_epoch="e1", about=b"{}", opens=opens)
        await do("want", "a", [Want(TASK), Want(OTHER)], linger=30)
        await do("rewant", [TASK], linger=30)
        await do("keep", "a", TASK, called_back=True)
        applied = await do(
            "apply", "a", [state_of(TASK, 1, raw=b"raw"), state_of(OTHER, 1, mode=Mode.FREE, end=End.ENDED)]
        )
        assert [one.outcome for one in applied] == [ApplyOutcome.RECORDED] * 2
        await do("records", [TASK, OTHER])
        await do("history", TASK, 0)
        await do("newest", "video", "-", final=False, limit=9)
        await do("register", "a", TASK, b'{"tags": ["x"], "group": "g"}')
        await do("listing", "video", "-")
        tagged = await do("listing", "video", "-", tag="x", group="g")
        assert await do("oldest", "video", "-", after=0, limit=1) == tagged
        assert await do("accounts", "video") == ["-"]
        assert await do("read", 0, block=0.01)
        await do("announce", "a", TASK, "stalled", b"body")
        await do("confirm", "a", [(TASK, Confirmation(1.0))])
        await do("take", "a", Take("video/-", rate=10.0, slots=2, permits=1, max_permits=4))
        await do("report", "a", "video/-", Report.FAILED)
        await do("probe", "a", "video/-", seconds=1)
        await do("learn", "times", [b"1"], keep=5)
        await do("learned", ["times"])
        await do("put", "name", b"value", expect=None, seconds=60, announced=True)
        await do("get", ["name"])
        await do("begin", "a", "create", b"digest", seconds=60)
        await do("finish", "a", "create", b"answer")
        await do("add_jobs", [Job("queue", "job", b"body")])
        await do("waiting", ["queue"])
        await do("claim_jobs", "a", "queue", limit=1, lease=5)
        await do("finish_job", "a", "queue", "job")
        await do("drop_queue", "queue")
        await do("hold", "counter", "hold", 1.0, limit=5.0, window=60.0)
        await do("settle", "counter", "hold", 0.5)
        await do("call", "a", TASK)
        await do("owned", "a", after=None, limit=10)
        await do("release", "a", [Release(TASK, 1)], transfer=True)
        await do("claim", "a", account="-", limit=10)
        await do("forget", "a", OTHER)
        await do("census")
        await do("leave", "a")
        await do("bury", limit=10, spacing=0.1)
    finally:
        await engine.close()
    assert done == set(OPERATIONS)


@pytest.mark.parametrize(
    "command",
    [
        "KEYS *",
        "FLUSHALL",
        "CONFIG GET maxmemory",
        "SHUTDOWN",
        "SAVE",
        "MONITOR",
        "ACL LIST",
        "GET of-another-program",
        "HSET another x 1",
        "PUBLISH channel x",
        "SCRIPT FLUSH",
    ],
)
async def test_nothing_else_is(server: RedisServer, command: str) -> None:
    from redis.asyncio import Redis
    from redis.exceptions import NoPermissionError

    async with Redis(port=server.port, username="bridge", password="a-password") as connection:
        with pytest.raises(NoPermissionError):
            await connection.execute_command(*command.split())


def test_compose_gives_the_same_rights() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert USER.replace("PASSWORD", "$$BRIDGE_ENGINE_PASSWORD") in text
    assert "user default off" in text
