"""The settings of copies: what is accepted, what is refused, and that no error repeats a credential."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest

from bridge.clock import SystemClock
from bridge.config import checks
from bridge.config.effective import effective
from bridge.config.load import load
from bridge.config.settings import OutputSettings
from bridge.errors import ConfigError
from bridge.outputs.configured import open_store
from bridge.outputs.file_store import FileStore
from bridge.outputs.s3_store import S3Store


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


def read(**outputs: Any) -> OutputSettings:
    return load(None, environment={}, upstreams={"qingbo": {}}, outputs=outputs).outputs


def errors(**outputs: Any) -> list[str]:
    with pytest.raises(ConfigError) as failed:
        read(**outputs)
    return failed.value.errors


def test_without_a_store_nothing_is_copied():
    assert read().store is None
    assert open_store(read(), SystemClock()) is None


@pytest.mark.parametrize(
    ("store", "bucket"),
    [
        ("s3://my-bucket", ("my-bucket", "")),
        ("s3://my-bucket/", ("my-bucket", "")),
        ("s3://my.bucket/a/b_c.d/", ("my.bucket", "a/b_c.d")),
    ],
)
def test_a_bucket_has_a_name_and_a_prefix(store: str, bucket: tuple[str, str]):
    outputs = read(store=store, region="eu-central-1")
    assert (outputs.bucket, outputs.directory, outputs.links_in_use) == (bucket, None, "signed")
    assert isinstance(open_store(outputs, SystemClock()), S3Store)


@pytest.mark.parametrize("store", ["file:/var/lib/outputs", "file:outputs", "file:./a b"])
def test_a_directory_has_a_path(store: str):
    outputs = read(store=store)
    assert (outputs.bucket, outputs.directory) == (None, Path(store[5:]))
    assert outputs.links_in_use == "bridge"
    assert isinstance(open_store(outputs, SystemClock()), FileStore)


@pytest.mark.parametrize(
    "store",
    [
        *["", "s3:", "s3://", "s3://A", "s3://UPPER/x", "s3://KEY:a-secret@bucket/x", "s3://bucket/../x"],
        *["s3://bucket/a//b", "s3://bucket/./b", "s3://bucket/ä", "s3://bucket?key=a-secret", "gs://bucket"],
        *["file:", "file://host/path", "file:/a\0b", "/var/lib", "https://KEY:a-secret@s3/bucket"],
    ],
)
def test_another_store_is_refused_and_not_repeated(store: str):
    (error,) = errors(store=store)
    assert error.startswith("outputs.store: must be file:PATH, s3://BUCKET or s3://BUCKET/PREFIX")
    assert "a-secret" not in error


@pytest.mark.parametrize("name", ["endpoint", "public_url"])
@pytest.mark.parametrize("url", ["minio:9000", "https://KEY:a-secret@minio", "https://minio?key=a-secret"])
def test_a_url_with_a_credential_is_refused_and_not_repeated(name: str, url: str):
    (error,) = errors(store="s3://bucket", region="auto", links="public", **{name: url})
    assert error.startswith(f"outputs.{name}: must be")
    assert "a-secret" not in error


def test_what_does_not_fit_together_is_said_at_once():
    assert errors(links="public", region="auto") == [
        "outputs.links: only for use with outputs.store, which says where copies are kept",
        "outputs.region: only for use with outputs.store, which says where copies are kept",
    ]
    assert errors(store="file:/a", endpoint="https://a", links="signed", public_url="https://b") == [
        "outputs.endpoint: only for use with a bucket: outputs.store = s3://BUCKET/PREFIX",
        'outputs.links: must be "bridge": a directory has no URLs of its own',
        'outputs.public_url: needs links = "public"',
    ]
    assert errors(store="file:/a", max_bytes=2048, max_bytes_per_task=1024) == [
        "outputs.max_bytes: 2048 is more than max_bytes_per_task, which is 1024"
    ]
    assert errors(store="s3://bucket", signed_seconds=604_801, retention_days=-1)[0].startswith(
        "outputs.signed"
    )


def test_a_region_is_named_somewhere(monkeypatch: pytest.MonkeyPatch):
    assert errors(store="s3://bucket") == [
        "outputs.region: required without endpoint, here or as AWS_REGION: signatures name the region"
    ]
    assert read(store="s3://bucket", endpoint="https://minio.example/").region_in_use == "us-east-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert read(store="s3://bucket").region_in_use == "eu-west-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert read(store="s3://bucket").region_in_use == "eu-west-2"
    assert read(store="s3://bucket", region="auto").region_in_use == "auto"


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_credential_is_said(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv(name, "a-secret")
    assert errors(store="s3://bucket", region="auto") == [
        "outputs.store: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are needed together, or neither"
    ]


def test_what_the_client_refuses_is_an_error_of_the_configuration(monkeypatch: pytest.MonkeyPatch):
    settings = read(store="s3://bucket", region="auto")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a-secret")  # after the settings were read
    with pytest.raises(ConfigError, match=r"outputs\.store: .*AWS_") as failed:
        open_store(settings, SystemClock())
    assert "a-secret" not in str(failed.value)


def test_a_bucket_needs_its_client(monkeypatch: pytest.MonkeyPatch):
    found = util.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "obstore" else found(name))
    assert errors(store="s3://bucket", region="auto") == [
        "outputs.store: a bucket needs pip install 'task-event-bridge[s3]'"
    ]
    assert read(store="file:/a").store == "file:/a"


def test_settings_come_from_the_environment_too():
    environment = {"BRIDGE_OUTPUTS__STORE": "file:/a", "BRIDGE_OUTPUTS__RETENTION_DAYS": "7"}
    settings = load(None, environment=environment, upstreams={"qingbo": {}})
    assert settings.outputs.retention_days == 7
    shown = effective(settings)
    assert tuple(shown["outputs.store"]) == ("file:/a", "environment")
    assert tuple(shown["outputs.links"]) == ("bridge", "default")


def test_names_that_were_meant_are_told():
    assert errors(stor="file:/a") == ["outputs.stor: no such setting; did you mean 'store'?"]
    with pytest.raises(ConfigError, match=r"BRIDGE_RETENTION_DAYS: .*BRIDGE_OUTPUTS__RETENTION_DAYS"):
        load(None, environment={"BRIDGE_RETENTION_DAYS": "7"}, upstreams={"qingbo": {}})


def test_secrets_of_the_environment_are_kept_from_logs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-token-of-the-environment")
    kept: list[str] = []
    monkeypatch.setattr("bridge.outputs.configured.keep_from_logs", kept.append)
    open_store(read(store="s3://bucket", region="auto"), SystemClock())
    assert kept == ["a-secret-of-the-environment", "a-token-of-the-environment"]
    open_store(read(store="file:/a"), SystemClock())
    assert len(kept) == 2
