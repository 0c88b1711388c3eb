"""What the bridge signs, the published libraries of Standard Webhooks verify; and nothing else."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from bridge.clock import SystemClock
from bridge.core.webhook_secret import MAX_SECRET_BYTES, MIN_SECRET_BYTES
from bridge.webhooks.signature import new_secret, signed_headers
from tests.conftest import missing

HERE = Path(__file__).parent
NPM = HERE.parents[1] / "tools" / "node_modules" / "standardwebhooks"

OLD, NEW = new_secret(), new_secret()
SMALL = b'{"type":"task.final","data":{"status":"completed"}}'
BODIES = {
    "small": SMALL,
    "unicode": '{"prompt":"\u2603 \U0001f5fc \u0628\u064a\u062a \u2028\u2029\\u0000"}'.encode(),
    "spaces": b' {"a" : 1.0, "b":\t1e2}\r\n',
    "large": b'{"raw":"' + "\u00fc".encode() * 524_288 + b'"}',
}


def now() -> int:
    """Unix seconds: the library refuses what is older than five minutes, and the suite runs for longer."""
    return int(SystemClock().time())


Verify = Callable[[str, Mapping[str, str], bytes], Any]


class Refused(Exception):
    """A library does not accept a delivery."""


def in_python(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    try:
        return Webhook(secret).verify(body, dict(headers))
    except WebhookVerificationError as error:
        raise Refused(str(error)) from None


def in_node(secret: str, headers: Mapping[str, str], body: bytes) -> Any:
    result = verified_in_node([(secret, headers, body)])[0]
    if "error" in result:
        raise Refused(result["error"])
    return result["event"]


def verified_in_node(deliveries: list[tuple[str, Mapping[str, str], bytes]]) -> list[dict[str, Any]]:
    node = shutil.which("node")
    if node is None or not NPM.is_dir():
        missing("standardwebhooks of npm")
    cases = [
        {"secret": secret, "headers": dict(headers), "body": base64.b64encode(body).decode()}
        for secret, headers, body in deliveries
    ]
    done = subprocess.run(
        [str(node), HERE / "verify.mjs"], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout))


LIBRARIES = [in_python, pytest.param(in_node, marks=pytest.mark.extended)]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_delivery_is_verified(body: bytes) -> None:
    for secret in (OLD, secret_of(MIN_SECRET_BYTES), secret_of(MAX_SECRET_BYTES)):
        headers = signed_headers("msg_1", now(), body, [secret])
        assert in_python(secret, headers, body) == json.loads(body)


def test_and_with_the_package_of_npm() -> None:
    deliveries = [
        (secret, signed_headers("msg_1", now(), body, [secret]), body)
        for body in BODIES.values()
        for secret in (OLD, secret_of(MIN_SECRET_BYTES), secret_of(MAX_SECRET_BYTES))
    ]
    results = verified_in_node(deliveries)
    assert results == [{"event": json.loads(body)} for _, _, body in deliveries]


@pytest.mark.parametrize("verify", LIBRARIES)
def test_while_a_secret_rotates_each_of_the_two_verifies(verify: Verify) -> None:
    headers = signed_headers("msg_1", now(), SMALL, [NEW, OLD])
    assert verify(OLD, headers, SMALL) == verify(NEW, headers, SMALL) == json.loads(SMALL)
    with pytest.raises(Refused, match="No matching signature"):
        verify(new_secret(), headers, SMALL)
    with pytest.raises(Refused, match="No matching signature"):
        verify(OLD, signed_headers("msg_1", now(), SMALL, [NEW]), SMALL)


@pytest.mark.parametrize("verify", LIBRARIES)
def test_what_was_changed_or_is_old_is_refused(verify: Verify) -> None:
    headers = signed_headers("msg_1", now(), SMALL, [OLD])
    for changed in ({"webhook-id": "msg_2"}, {"webhook-timestamp": str(now() - 1)}):
        with pytest.raises(Refused, match="No matching signature"):
            verify(OLD, {**headers, **changed}, SMALL)
    with pytest.raises(Refused, match="No matching signature"):
        verify(OLD, headers, SMALL.replace(b"completed", b"failed"))
    with pytest.raises(Refused, match="No matching signature"):  # what a framework's parser may do to a body
        verify(OLD, headers, json.dumps(json.loads(SMALL)).encode())
    for seconds in (-3600, 3600):
        with pytest.raises(Refused, match=r"too (old|new)"):
            verify(OLD, signed_headers("msg_1", now() + seconds, SMALL, [OLD]), SMALL)


@given(st.binary(min_size=MIN_SECRET_BYTES, max_size=MAX_SECRET_BYTES), st.text(max_size=50))
def test_any_secret_and_any_text(key: bytes, text: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    body = json.dumps({"text": text}).encode()
    assert in_python(secret, signed_headers("msg_1", now(), body, [NEW, secret]), body) == {"text": text}


def secret_of(length: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(length))).decode()
