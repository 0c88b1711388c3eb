"""docs/webhooks.md, followed literally: every command is typed, every program is run."""

from __future__ import annotations

import json
import re
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from bridge.clock import SystemClock
from tests.chaos.proxy import free_port
from tests.docs.desk import BIN, Desk, commands, runs
from tests.docs.pages import snippets
from tests.docs.programs import started
from tests.docs.recipes import needed

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

PAGE = "docs/webhooks.md"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A folder in which `.venv/bin/taskbridge` is what the page means, and the library is installed."""
    needed("curl")
    (tmp_path / ".venv").symlink_to(BIN.parent)
    return Desk(tmp_path)


def one(language: str, having: str) -> str:
    """The snippet of the page that has these words."""
    (found,) = (one.text for one in snippets(language, page=PAGE) if having in one.text)
    return found


async def test_the_page_from_top_to_bottom(desk: Desk) -> None:
    serve, add, _install, receive, test, submit, deliveries, redeliver, enable, per_submit, rotate, once = (
        commands(PAGE)
    )
    port = free_port()

    def read(text: str, **inserted: str) -> str:
        for name, value in inserted.items():
            assert name in text
            text = text.replace(name, value)
        return text.replace("9099", str(port))

    async with AsyncExitStack() as stack:
        await runs(stack, desk, ".venv/bin/taskbridge simulate", f"--port {desk.provider} --speed 20")
        settings = desk.read(read(one("toml", "private_hosts")))
        (desk.folder / "bridge.toml").write_text(settings)
        await runs(stack, desk, serve)
        created = json.loads("".join(await desk.types(read(add))))
        assert created["secret"].startswith("whsec_")
        mine = {"wh_YOUR_ID": created["id"]}

        (desk.folder / "receiver.py").write_text(read(one("python", "HTTPServer")))
        receiver = await stack.enter_async_context(
            started(
                *("bash", "-c", read(f"exec env {receive}", whsec_YOUR_SECRET=created["secret"])),
                environment=desk.environment,
                cwd=desk.folder,
            )
        )
        for _ in range(50):  # until the receiver listens
            if json.loads("".join(await desk.types(read(test, **mine))))["result"] == "delivered":
                break
        assert (await receiver.line("webhook.test")).startswith("webhook.test ")

        await desk.types(f"{submit} || [ $? = 1 ]")  # 1: the task failed, as some do
        line = await receiver.line("task.final")
        ended = re.fullmatch(r"task\.final qingbo/\S+ (completed|failed|cancelled)", line.strip())
        assert ended is not None

        table = "\n".join(await desk.types(read(deliveries, **mine)))
        delivered = re.search(r"(msg_\w+) +task\.final +qingbo/\S+ +delivered +1 ", table)
        assert delivered is not None, table
        again = "\n".join(await desk.types(read(redeliver, msg_YOUR_DELIVERY=delivered[1], **mine)))
        assert again.startswith(f"{delivered[1]}: delivered, HTTP 204")
        assert json.loads("".join(await desk.types(read(enable, **mine))))["enabled"] is True
        rotated = json.loads("".join(await desk.types(read(rotate, **mine))))
        assert rotated["secret"] != created["secret"]
        # The receiver has the old secret, which signs too.
        assert json.loads("".join(await desk.types(read(test, **mine))))["result"] == "delivered"

        refused = json.loads("".join(await desk.types(per_submit)))  # no host is allowed in this file
        assert (refused["status"], refused["code"]) == (403, "forbidden")
        first, second = ["\n".join(await desk.types(once)) for _ in range(2)]
        assert "idempotent-replayed: true" not in first.lower()
        assert "idempotent-replayed: true" in second.lower()
        assert re.search(r'"task":"([^"]+)"', first)[1] == re.search(r'"task":"([^"]+)"', second)[1]


def test_a_body_as_the_page_shows_it_is_verified_by_the_library() -> None:
    code = one("python", "WebhookEvent")
    names: dict[str, object] = {}
    exec(compile(code, PAGE, "exec"), names)
    now = SystemClock().time()
    body = one("json", '"task.final"')
    signature = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").sign(
        "msg_1", datetime.fromtimestamp(now, tz=UTC), body
    )
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now)),
        "webhook-signature": signature,
    }
    event = names["receive"]("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", body.encode(), headers)
    assert (event.type, event.state.task) == ("task.final", "qingbo/task-1")
    assert sys.modules["task_event_bridge"].WebhookEvent is type(event)
