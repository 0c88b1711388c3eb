"""What is wrong with the webhooks of a configuration is said all together, and without any secret."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bridge.config.settings import Settings
from bridge.webhooks.signature import new_secret

UPSTREAMS = {"qingbo": {"api_key": "x" * 32}}
GOOD = {"url": "https://receiver.example/hook", "secret": new_secret()}


def mistakes(**settings: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings(upstreams=UPSTREAMS, **settings)
    text = str(caught.value)
    assert GOOD["secret"] not in text
    return [".".join(map(str, one["loc"])) or one["msg"].partition(": ")[0] for one in caught.value.errors()]


def test_all_mistakes_of_all_webhooks_are_reported() -> None:
    webhooks = {
        "Bad name": GOOD,
        "wh_1": GOOD,
        "inside": GOOD | {"url": "https://10.0.0.1/"},
        "plain": GOOD | {"url": "http://receiver.example/"},
        "weak": GOOD | {"secret": "whsec_abcd"},
        "other": GOOD | {"upstreams": ["qinbo"]},
        "event": GOOD | {"events": ["task.done"], "url": "gopher://x"},
        "none": {"url": "https://receiver.example/"},
    }
    assert sorted(mistakes(webhooks=webhooks, webhook_hosts=["a.example"])) == [
        "webhook_secret",
        "webhooks.Bad name",
        "webhooks.event.events.0",
        "webhooks.event.url",
        "webhooks.inside.url",
        "webhooks.none.secret",
        "webhooks.other.upstreams",
        "webhooks.plain.url",
        "webhooks.weak.secret",
        "webhooks.wh_1",
    ]


def test_hosts_of_submits_and_their_secret_belong_together() -> None:
    secret = new_secret()
    Settings(upstreams=UPSTREAMS, webhook_hosts=["a.example"], webhook_secret=secret)
    assert mistakes(webhook_secret=secret) == ["webhook_secret"]
    assert mistakes(webhook_hosts=["a.example"], webhook_secret="long enough, and no base64") == [
        "webhook_secret"
    ]


def test_a_private_host_may_be_called_in_plain_text() -> None:
    webhook = GOOD | {"url": "http://127.0.0.1:9000/hook"}
    settings = Settings(upstreams=UPSTREAMS, webhooks={"mine": webhook}, private_hosts=["127.0.0.1"])
    assert settings.webhooks["mine"].events == ["task.final"]
