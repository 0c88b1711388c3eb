"""The settings of several processes as one service: what fits together, and that no password is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.effective import effective, limits_sentence, table
from bridge.config.engine_memory import retention_warning
from bridge.config.load import load
from bridge.config.settings import Settings, secrets_of
from bridge.engine.address import parse_address
from bridge.errors import ConfigError
from tests.fakes.certificates import Authority

UPSTREAMS = '\n[upstreams.fal]\napi_key = "a-key"\n'
PASSWORD = "correct-horse@battery/staple"
QUOTED = "correct-horse%40battery%2Fstaple"
SECRET = "s" * 32


def read(tmp_path: Path, text: str, **environment: str) -> Settings:
    file = tmp_path / "bridge.toml"
    file.write_text(text + UPSTREAMS)
    return load(file, environment=environment)


def errors(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, **environment)
    assert PASSWORD not in str(caught.value)
    assert QUOTED not in str(caught.value)
    return caught.value.errors


def test_one_process_alone_is_the_default(tmp_path: Path) -> None:
    settings = read(tmp_path, "")

    assert (settings.workers, settings.engine) == (1, "embedded")
    assert not settings.is_replicated
    assert limits_sentence(settings) is None


@pytest.mark.parametrize(
    ("url", "hosts", "service", "tls", "user", "database", "path"),
    [
        ("redis://h", (("h", 6379),), "", False, "", 0, ""),
        ("redis://h:7000/3", (("h", 7000),), "", False, "", 3, ""),
        ("redis://:pw@h?db=2", (("h", 6379),), "", False, "", 2, ""),
        ("rediss://me:pw@[::1]:7000/", (("::1", 7000),), "", True, "me", 0, ""),
        (
            "redis+sentinel://a,b:1,[::1]/main",
            (("a", 26379), ("b", 1), ("::1", 26379)),
            "main",
            False,
            "",
            0,
            "",
        ),
        ("rediss+sentinel://m@a/main/4", (("a", 26379),), "main", True, "m", 4, ""),
        ("unix:///run/valkey.sock", (), "", False, "", 0, "/run/valkey.sock"),
        ("unix://me:pw@/run/valkey.sock?db=5", (), "", False, "me", 5, "/run/valkey.sock"),
    ],
)
def test_every_form_of_address(
    url: str, hosts: tuple[tuple[str, int], ...], service: str, tls: bool, user: str, database: int, path: str
) -> None:
    address = parse_address(url)

    assert address[:6] == (hosts, path, service, tls, user, database)
    assert "pw" not in address.shown


@pytest.mark.parametrize(
    "url",
    [
        "valkey",
        "memory",
        "http://h:6379",
        "redis:h",
        "redis:///0",
        "redis://",
        "redis://h:port",
        "redis://h:0",
        "redis://h:99999",
        "redis://h/name",
        "redis://h/-1",
        "redis://h/1?db=1",
        "redis://a,b",
        "redis://h?password=x",
        "redis://[::1",
        "redis://h one",
        "redis+sentinel://a,b",
        "redis+sentinel://a,,b/main",
        "unix://run/valkey.sock",
        "unix:run.sock",
        f"redis://:{PASSWORD}@h",
        f"redis://user:{PASSWORD}#1@h:6379",
        f"redis://{PASSWORD}@h:6379x",
        f"redis://u:{QUOTED}@h:6379x",
        f"redis://:1/{PASSWORD}@h",
    ],
)
def test_what_is_no_address_is_refused_and_never_repeated(tmp_path: Path, url: str) -> None:
    (error,) = errors(tmp_path, f'engine = "{url}"')

    assert error.startswith("engine: ")


@pytest.mark.parametrize(
    "scheme", ["redis://me:{}@h:1/2", "redis+sentinel://me:{}@a,b/main", "unix://me:{}@/s"]
)
def test_the_password_of_the_address_is_kept_apart_and_never_shown(tmp_path: Path, scheme: str) -> None:
    settings = read(tmp_path, "", BRIDGE_ENGINE=scheme.format(QUOTED))

    assert settings.engine == scheme.replace(":{}", "")
    assert settings.engine_password is not None
    assert settings.engine_password.get_secret_value() == PASSWORD
    assert PASSWORD in secrets_of(settings)
    shown = effective(settings)
    assert shown["engine_password"] == ("***", "environment")
    for text in (table(shown), repr(settings), settings.model_dump_json()):
        assert PASSWORD not in text
        assert QUOTED not in text


def test_a_password_is_given_once(tmp_path: Path) -> None:
    assert errors(tmp_path, f'engine = "redis://:{QUOTED}@h"\nengine_password = "x"') == [
        "engine_password: the URL in engine has a password too; which is meant?"
    ]


def test_everything_that_does_not_fit_together_is_told_at_once(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        f"""
        engine = "redis://h"
        journal = "sqlite:./bridge.db"
        auth = "upstream-key"
        token_jwks_url = "https://idp.example/keys"
        token_issuer = "idp"
        engine_timeout_seconds = 2
        engine_lease_seconds = 5
        engine_ca_file = "{tmp_path}/ca.pem"
        engine_name = "a{{b}}"
        engine_sentinel_password = "x"
        """,
    )

    assert [error.partition(":")[0] for error in found] == [
        "engine_name",
        "journal",
        "engine_ca_file",
        "engine_sentinel_password",
        "engine_timeout_seconds",
        "account_secret",
        "ticket_secret",
    ]


def test_workers_need_a_journal_that_they_share(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, 'workers = 2\njournal = "memory"')

    assert error.startswith("workers: several processes need a journal that they share")
    assert read(tmp_path, "workers = 2\nport = 0").is_replicated
    assert read(tmp_path, 'workers = 2\nengine = "redis://h"').has_shared_engine


def test_workers_need_the_secrets_that_one_process_makes_for_itself(tmp_path: Path) -> None:
    text = 'workers = 2\nauth = "upstream-key"\n'

    (error,) = errors(tmp_path, text)

    assert error == "account_secret: required with 2 workers: every process must name an account the same way"
    assert read(tmp_path, f'{text}account_secret = "{SECRET}"')


def test_settings_of_a_shared_engine_without_one(tmp_path: Path) -> None:
    (error,) = errors(tmp_path, 'engine_password = "x"')

    assert error == "engine_password: only for use with an engine that is shared: engine = redis://HOST:PORT"


def test_files_of_tls_are_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    text = 'engine = "rediss://h"\n'

    (missing,) = errors(tmp_path, f'{text}engine_ca_file = "none.pem"')
    (empty,) = errors(tmp_path, f'{text}engine_ca_file = "empty.pem"')
    (alone,) = errors(tmp_path, f'{text}engine_key_file = "empty.pem"')

    assert missing == f"engine_ca_file: not usable: {tmp_path}/none.pem: No such file or directory"
    assert empty == f"engine_ca_file: not usable: {tmp_path}/empty.pem holds no certificate in PEM form"
    assert alone == "engine_certificate_file: required: a certificate and its key belong together"
    (tmp_path / "ca.pem").write_bytes(Authority().pem)
    assert read(tmp_path, f'{text}engine_ca_file = "ca.pem"')


def test_limits_that_each_process_counts_for_itself_are_named(tmp_path: Path) -> None:
    workers = limits_sentence(read(tmp_path, "workers = 4"))
    shared = limits_sentence(read(tmp_path, 'engine = "redis://h"'))

    assert workers is not None
    assert shared is not None
    assert "each of the 4 workers for itself, so the service as a whole allows 4 times as much" in workers
    assert "max_connections" in workers
    assert "max_in_flight" in workers
    assert "each bridge on the engine for itself, so the service as a whole allows N times as much" in shared


def test_a_retention_that_fills_the_engine_is_warned_about(tmp_path: Path) -> None:
    month = "retention_seconds = 2592000\n"
    shared = read(tmp_path, month + 'engine = "redis://h"')

    assert retention_warning(read(tmp_path, month)) is None
    assert retention_warning(read(tmp_path, 'engine = "redis://h"')) is None
    assert retention_warning(shared, 8 * 1024**3) is None
    assert "takes 3,461 MiB of the engine's memory (14 KB each);" in str(retention_warning(shared))
    assert "more than its maxmemory of 2,048 MiB" in str(retention_warning(shared, 2 * 1024**3))
