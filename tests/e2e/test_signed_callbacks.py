"""Callbacks that are signed: who does not hold the key cannot make the bridge look."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from bridge.clock import SystemClock
from tests.e2e import raw
from tests.e2e.bare import Bare, bare_provider
from tests.harness import BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

RAW = b"a key of replicate"
KEY = "whsec_" + b64encode(RAW).decode()
PATH = "/v1/callbacks/replicate/s3cr3t"


@dataclass
class Play:
    bare: Bare
    bridge: BridgeProcess
    http: aiohttp.ClientSession

    async def call_back(self, body: bytes, headers: dict[str, str]) -> int:
        async with self.http.post(self.bridge.url + PATH, data=body, headers=headers) as answer:
            return answer.status

    async def counted(self, result: str) -> float:
        async with self.http.get(f"{self.bridge.url}/metrics") as answer:
            text = await answer.text()
        series = f'bridge_callbacks_total{{result="{result}",upstream="replicate"}} '
        return float(text.partition(series)[2].split("\n")[0])


@pytest.fixture(scope="module")
async def play(anyio_backend: str) -> AsyncIterator[Play]:
    wishes: dict[str, Any] = {"callback_secret": "s3cr3t", "callback_signing_key": KEY, "api_key": "k"}
    slow = {"poll_min_seconds": 60, "poll_max_seconds": 120}
    async with bare_provider() as bare:
        upstreams = {"replicate": {"base_url": bare.url, **slow, **wishes}}
        async with running_bridge(upstreams) as bridge, aiohttp.ClientSession() as http:
            yield Play(bare, bridge, http)


def prediction(status: str) -> dict[str, object]:
    return {"id": "p1", "status": status, "output": ["https://x.example/a.png"], "error": None}


def signed(body: bytes, *, key: bytes = RAW, late: int = 0) -> dict[str, str]:
    stamp = str(int(SystemClock().time()) - late)
    digest = hmac.digest(key, b"msg_1.%b.%b" % (stamp.encode(), body), "sha256")
    signature = f"v1,bm9uZQ== v1,{b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": signature}


async def test_only_a_callback_that_is_signed_makes_the_bridge_look(play: Play) -> None:
    play.bare.answers = [prediction("processing"), prediction("succeeded")]
    body = b'{"id": "p1", "status": "succeeded"}'
    async with raw.request(play.bridge.url, "/v1/tasks/replicate/p1/events") as stream:
        assert (await stream.state())["status"] == "processing"
        forged = [{}, signed(body, key=b"guessed"), signed(body + b" "), signed(body, late=400)]
        for headers in forged:
            assert await play.call_back(body, headers) == 403
        assert (len(play.bare.asked), await play.counted("forged")) == (1, len(forged))
        assert await play.call_back(body, signed(body)) == 200
        assert (await stream.state())["status"] == "completed"
        assert (len(play.bare.asked), await play.counted("accepted")) == (2, 1)


async def test_a_signing_key_of_the_wrong_form_or_for_nothing_is_a_mistake_at_the_start() -> None:
    for upstream, key in (("replicate", "whsec_no base64!"), ("qingbo", "secret-key"), ("fal", "secret-key")):
        with pytest.raises(RuntimeError, match=f"upstreams.{upstream}.callback_signing_key") as caught:
            async with running_bridge({upstream: {"callback_signing_key": key}}):
                pass
        assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://x/?q=1", "https://u:p@x", "nonsense"])
async def test_a_public_url_that_is_no_address_is_a_mistake_at_the_start(url: str) -> None:
    with pytest.raises(RuntimeError, match="public_url"):
        async with running_bridge({"qingbo": {}}, public_url=url):
            pass
