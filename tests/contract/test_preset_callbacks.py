"""Every preset against the callbacks its provider documents: whose they are, and whether they are signed.

`recordings/NAME/callback/` holds the headers and the body as they come; where the provider signs, also the
invented key they were signed with and the unix second at which they arrive.
"""

import json
from pathlib import Path

import pytest

from bridge.dialects.registry import load_preset
from bridge.sources.signatures import Proof, make_verifier
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.anyio

RECORDINGS = Path(__file__).parents[2] / "bridge" / "simulator" / "recordings"
CALLBACKS = sorted(RECORDINGS.glob("*/callback/*.json"))
SIGNED = [file for file in CALLBACKS if "signing_key" in json.loads(file.read_text("utf-8"))]


def dialect_and_case(file):
    case = json.loads(file.read_text("utf-8"))
    assert case["source"]
    return load_preset(file.parents[1].name), case


def named(file):
    return f"{file.parents[1].name}/{file.stem}"


def verifier_of(file, key=None):
    dialect, case = dialect_and_case(file)
    key, clock = key or case["signing_key"], FakeClock(unix_time=case["received_at"])
    return make_verifier(dialect.callback_signature, key, clock, nothing_published), case


async def nothing_published():
    raise AssertionError("these keys are no published ones")


@pytest.mark.parametrize("file", CALLBACKS, ids=named)
def test_a_callback_says_which_task_to_look_at(file):
    dialect, case = dialect_and_case(file)
    callback = dialect.read_callback(case["body"].encode())
    reply = None if callback.reply is None else callback.reply.decode()
    shows = {"task_id": callback.task_id, "challenge": callback.challenge, "reply": reply}
    assert shows == {"challenge": False, "reply": None} | case["expect"]


@pytest.mark.parametrize("file", SIGNED, ids=named)
async def test_what_the_provider_signed_is_proven(file):
    verifier, case = verifier_of(file)
    assert await verifier.proof(case["headers"], case["body"].encode()) is Proof.GOOD


@pytest.mark.parametrize("file", SIGNED, ids=named)
async def test_what_another_signed_is_not(file):
    case = dialect_and_case(file)[1]
    key = case["signing_key"]
    verifier, _ = verifier_of(file, key[:-1] + ("A" if key[-1] != "A" else "B"))
    assert await verifier.proof(case["headers"], case["body"].encode()) is Proof.WRONG


@pytest.mark.parametrize("file", SIGNED, ids=named)
async def test_a_signed_callback_without_its_signature_is_refused(file):
    verifier, case = verifier_of(file)
    assert await verifier.proof({}, case["body"].encode()) is Proof.WRONG
