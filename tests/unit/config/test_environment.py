"""Variables that cannot be read are mistakes like the others, and their values are not shown."""

from __future__ import annotations

import pytest

from bridge.config.load import load
from bridge.config.settings import secrets_of
from bridge.errors import ConfigError

SECRET = "a-secret-that-is-no-json-at-all-0123456789"


def test_every_variable_that_is_no_json_is_told_without_its_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            None,
            environment={
                "BRIDGE_TOKEN_SECRETS": SECRET,
                "BRIDGE_ALLOWED_ORIGINS": SECRET,
                "BRIDGE_PORT": "not a port",
                "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "k",
            },
        )
    told = str(caught.value)
    assert SECRET not in told
    for name in ("BRIDGE_TOKEN_SECRETS: is a list", "BRIDGE_ALLOWED_ORIGINS: is a list", "port: "):
        assert name in told


def test_a_variable_inside_of_a_table_is_told_by_its_own_name() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            None,
            environment={
                "BRIDGE_WEBHOOKS__SHOP__URL": "https://app.example.com/webhooks",
                "BRIDGE_WEBHOOKS__SHOP__SECRET": f"whsec_{'A' * 43}=",
                "BRIDGE_WEBHOOKS__SHOP__EVENTS": SECRET,
                "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "k",
            },
        )
    (told,) = caught.value.args[0].splitlines()[1:]
    # The oldest pydantic-settings that is allowed leaves the text to the check of the setting.
    own, other = "BRIDGE_WEBHOOKS__SHOP__EVENTS: is a list", "webhooks.shop.events: must be a list"
    assert own in told or other in told
    assert SECRET not in told


def test_everything_secret_in_the_settings_is_known() -> None:
    settings = load(
        None,
        environment={
            "BRIDGE_AUTH": "token",
            "BRIDGE_TOKEN_ISSUER": "me",
            "BRIDGE_TOKEN_SECRETS": f'["{SECRET}"]',
            "BRIDGE_UPSTREAMS__QINGBO__API_KEY": "the-api-key",
            "BRIDGE_UPSTREAMS__QINGBO__CALLBACK_SECRET": "the-callback-secret",
        },
    )
    assert sorted(secrets_of(settings)) == [SECRET, "the-api-key", "the-callback-secret"]
