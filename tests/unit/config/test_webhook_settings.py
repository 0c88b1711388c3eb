"""Settings of webhooks: what cannot work is an error at start, and no error repeats a secret."""

from __future__ import annotations

import pytest

from bridge.config.effective import effective, table
from bridge.config.load import load
from bridge.errors import ConfigError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="
UPSTREAM = '[upstreams.qingbo]\napi_key = "k"\n'


def read(tmp_path, text):
    path = tmp_path / "bridge.toml"
    path.write_text(text + UPSTREAM)
    return load(path, environment={})


def endpoint(**changed):
    fields = {"url": '"https://app.example.com/hooks"', "secret": f'"{SECRET}"'} | changed
    return "[webhooks.shop]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())


def test_an_endpoint_needs_a_url_and_a_secret(tmp_path):
    settings = read(tmp_path, endpoint(upstreams='["qingbo"]', events='["task.final", "task.status"]'))
    assert settings.webhooks["shop"].url == "https://app.example.com/hooks"
    assert SECRET not in repr(settings)
    local = 'private_hosts = ["127.0.0.1"]\n' + endpoint(url='"http://127.0.0.1:9099/"')
    assert read(tmp_path, local).webhooks["shop"].events == ["task.final"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (endpoint(url='"http://127.0.0.1:9099/?s=hush"'), "webhooks.shop.url"),
        (endpoint(url='"https://localhost/?s=hush"'), "webhooks.shop.url"),
        (endpoint(url='"hush"'), "webhooks.shop.url"),
        (endpoint(secret='"whsec_aHVzaA=="'), "webhooks.shop.secret"),
        (endpoint(secret='"hush"'), "webhooks.shop.secret"),
        (endpoint(upstreams='["quingbo"]'), "did you mean 'qingbo'"),
        (endpoint(events='["task.finl"]'), "webhooks.shop.events"),
        (endpoint().replace("shop", "Shop_1"), "webhooks.Shop_1"),
        ('webhook_hosts = ["app.example.com"]\n', "webhook_secret"),
        ('webhook_hosts = ["a.example.com"]\nwebhook_secret = "hush"\n', "webhook_secret"),
    ],
)
def test_what_cannot_work_is_named_without_secrets(tmp_path, text, named):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert len(caught.value.errors) == 1
    assert named in str(caught.value)
    assert "hush" not in str(caught.value)


def test_urls_of_submits_are_signed(tmp_path):
    text = f'webhook_hosts = ["app.example.com", "*.hooks.example"]\nwebhook_secret = "{SECRET}"\n'
    assert read(tmp_path, text).webhook_hosts == ["app.example.com", "*.hooks.example"]


def test_the_environment_has_tables_too_and_what_is_in_use_is_shown_without_secrets(tmp_path):
    path = tmp_path / "bridge.toml"
    path.write_text(UPSTREAM + '[webhooks.shop-a]\nurl = "https://app.example.com/hooks?s=hush"\n')
    settings = load(path, environment={"BRIDGE_WEBHOOKS__SHOP_A__SECRET": SECRET})
    shown = effective(settings)
    assert shown["webhooks.shop-a.url"] == ("https://app.example.com/hooks?***", "file")
    assert shown["webhooks.shop-a.secret"] == ("***", "environment")
    assert SECRET not in table(shown)
    assert "hush" not in table(shown)


def test_a_setting_that_does_not_exist_gets_advice(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'events'"):
        read(tmp_path, endpoint(evnts="[]"))
