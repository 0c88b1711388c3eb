import pytest

from bridge.dialects.registry import load_document, load_preset
from bridge.dialects.signature import Scheme, Signature
from bridge.errors import ConfigError

SMALLEST = {
    "base_url": "https://x.example",
    "calls": {"status": {"path": "/t/{task_id}"}},
    "status": {"at": "status"},
}


def signature(**keys):
    return load_document({**SMALLEST, "callback": {"signature": keys}}, "made-up").callback_signature


def told(**keys):
    with pytest.raises(ConfigError) as caught:
        signature(**keys)
    return [mistake.removeprefix("dialect made-up: callback.signature.") for mistake in caught.value.errors]


def test_callbacks_are_not_signed_unless_the_document_says_so():
    assert load_document(SMALLEST, "made-up").callback_signature is None
    assert load_preset("qingbo").callback_signature is None


def test_a_secret_in_a_header():
    assert signature(scheme="header", header="X-Webhook-Secret") == Signature(
        scheme=Scheme.HEADER, header="x-webhook-secret"
    )


def test_a_keyed_hash_is_over_the_body_unless_stated_otherwise():
    plain = signature(scheme="hmac", header="X-BFL-Signature", prefix="sha256=")
    assert (plain.algorithm, plain.encoding, plain.content, plain.timestamp_header) == (
        "sha256",
        "hex",
        "{body}",
        None,
    )
    full = signature(
        scheme="hmac",
        header="Webhook-Signature",
        algorithm="sha512",
        encoding="base64",
        prefix="v3,",
        content="{header:webhook-id}.{timestamp}.{body}",
        timestamp_header="Webhook-Timestamp",
        tolerance_seconds=60,
    )
    assert (full.content, full.timestamp_header, full.tolerance_seconds) == (
        "{header:webhook-id}.{timestamp}.{body}",
        "webhook-timestamp",
        60,
    )


@pytest.mark.parametrize("scheme", ["standard-webhooks", "fal"])
def test_a_published_scheme_brings_its_own_headers(scheme):
    assert signature(scheme=scheme) == Signature(scheme=Scheme(scheme))


@pytest.mark.parametrize(
    ("keys", "mistakes"),
    [
        ({}, ["scheme: missing"]),
        (
            {"scheme": "rot13", "header": "x"},
            ["scheme: 'rot13' is not one of header, hmac, standard-webhooks, fal"],
        ),
        ({"scheme": "hmac"}, ["header: missing"]),
        (
            {"scheme": "hmac", "header": "x", "content": "{timestamp}.{body}"},
            ["content: {timestamp} needs a timestamp_header"],
        ),
        (
            {"scheme": "hmac", "header": "x", "content": "{task_id}.{body}"},
            ["content: {task_id} is not known here ({body}, {timestamp}, {header:NAME})"],
        ),
        (
            {"scheme": "hmac", "header": "x", "algorithm": "md5"},
            ["algorithm: 'md5' is not one of sha1, sha256, sha512"],
        ),
        ({"scheme": "fal", "prefix": "v1"}, ["prefix: unknown key (known here: scheme, tolerance_seconds)"]),
    ],
)
def test_mistakes_are_told_with_their_place(keys, mistakes):
    assert told(**keys) == mistakes
