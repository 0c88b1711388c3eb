"""A server that cannot be used is refused before anything listens, in a sentence; one that is away is not."""

from __future__ import annotations

import asyncio
import http.server
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.app.engine_check import check_engine
from bridge.config.settings import Settings
from bridge.engine.redis.connect import Facts, check_facts
from bridge.errors import ConfigError, EngineUnavailable
from tests.conftest import missing
from tests.fakes.certificates import Authority
from tests.fakes.redis_servers import RedisServer, sentinel_text, unavailable

ROOT = Path(__file__).resolve().parents[2]
OTHERS = [pytest.param(kind, marks=pytest.mark.extended) for kind in ("redis7", "redis62")]
KINDS = ["valkey", *OTHERS]
PASSWORD = "correct-horse-battery-staple"


def need(kind: str) -> None:
    if unavailable(kind):
        missing(kind)


def settings_for(url: str, **more: object) -> Settings:
    return Settings.model_validate({"engine": url, "upstreams": {"fal": {"api_key": "k"}}, **more})


def check(url: str, **more: object) -> str:
    return check_engine(settings_for(url, **more)).sentence


def warnings_of(url: str, **more: object) -> list[str]:
    return [warning.partition(":")[0] for warning in check_engine(settings_for(url, **more)).warnings]


def refusal(url: str, **more: object) -> str:
    with pytest.raises(ConfigError) as caught:
        check(url, **more)
    (sentence,) = caught.value.errors
    assert PASSWORD not in sentence
    return sentence.replace("127.0.0.1", "HOST")


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    need(request.param)
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    need("valkey")
    with RedisServer("valkey") as server:
        yield server


def test_what_can_be_used(server: RedisServer) -> None:
    product = {"valkey": "Valkey 9.1", "redis7": "Redis 7", "redis62": "Redis 6.2"}[server.kind]

    assert f" can be used: {product}" in check(server.url)
    assert f" can be used: {product}" in check(f"unix://{server.socket}")


def test_a_server_without_a_bound_and_tasks_that_would_fill_it_are_warned_about(server: RedisServer) -> None:
    month = 30 * 86_400

    assert warnings_of(server.url) == ["engine"]
    assert warnings_of(server.url, retention_seconds=month) == ["retention_seconds", "engine"]
    server.ask("CONFIG", "SET", "maxmemory", "512mb")
    assert warnings_of(server.url) == []
    assert warnings_of(server.url, retention_seconds=month) == ["retention_seconds"]


def test_an_evicting_server_is_refused_with_the_command_to_run(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    assert refusal(server.url) == (
        f"engine: the engine at HOST:{server.port} may delete tasks when its memory is full (maxmemory-policy"
        " allkeys-lru): `CONFIG SET maxmemory-policy noeviction`, and the same in its configuration file"
    )


@pytest.mark.parametrize(
    ("facts", "refused"),
    [
        (Facts("redis", (6, 0, 16)), "is Redis 6.0.16; Redis 6.2 or newer is needed"),
        (Facts("redis", (6, 2, 0)), ""),
        (Facts("valkey", (7, 2, 4)), ""),
        (Facts("valkey", (7, 0, 0)), "is Valkey 7.0.0; Valkey 7.2 or newer is needed"),
        (Facts(), ""),
    ],
)
def test_versions(facts: Facts, refused: str) -> None:
    if not refused:
        check_facts(facts, "it", sentinels=False)
        return
    with pytest.raises(EngineUnavailable, match=f"^it {refused}$"):
        check_facts(facts, "it", sentinels=False)


def test_passwords(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "requirepass", PASSWORD)
    where = f"engine: the engine at HOST:{server.port}"

    assert refusal(server.url) == f"{where} asks for a password: set engine_password"
    assert refusal(server.url, engine_password=f"{PASSWORD}?") == f"{where} rejects the password"
    wrong = server.url.replace("//", f"//nobody:{PASSWORD}@")
    assert refusal(wrong) == f"{where} rejects the password of the user nobody"
    assert "can be used" in check(server.url.replace("//", f"//:{PASSWORD}@"))
    assert "can be used" in check(server.url, engine_password=PASSWORD)


def test_a_user_who_may_not_do_everything_is_told_what_is_missing(server: RedisServer) -> None:
    def permit(*rules: str) -> str:
        server.options = []
        asked = Acl(server)
        asked.set("u", *rules)
        return server.url.replace("//", f"//u:{PASSWORD}@")

    most = permit("~{bridge}:*", "+@all", "-zadd", "-xread", "-unlink")
    assert refusal(most).endswith("does not permit the user: +unlink +xread +zadd")
    assert "can be used: INFO not permitted" in check(permit("~{bridge}:*", "+@all", "-@dangerous"))
    for rules in (("~{other}:*", "+@all"), ("~{bridge}:*", "+ping")):
        assert refusal(permit(*rules)).endswith("needs: +eval, +evalsha and the keys ~{bridge}:*")


class Acl:
    """The users of a server."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def set(self, user: str, *rules: str) -> None:
        answer = self._server.ask("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *rules)
        assert answer == "+OK\r\n"


def test_a_replica_is_refused(server: RedisServer) -> None:
    with RedisServer(server.kind) as replica:
        replica.ask("REPLICAOF", "127.0.0.1", str(server.port))

        assert refusal(replica.url).endswith("is a replica, not the master; only the master can be written")


def test_data_of_another_version_is_refused(valkey: RedisServer) -> None:
    valkey.ask("HSET", "{bridge}:meta", "format", "97")

    assert "format 97, and this bridge reads format 1" in refusal(valkey.url)
    assert "can be used" in check(valkey.url, engine_name="other")


def test_a_database_that_is_not_there(valkey: RedisServer) -> None:
    assert refusal(f"{valkey.url}/99").endswith("has no database 99")
    assert "can be used" in check(f"{valkey.url}/3")


def test_what_is_no_valkey_or_redis_is_refused() -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        url = f"redis://127.0.0.1:{web.server_port}"
        assert refusal(url).endswith("is not Valkey or Redis, or speaks TLS, which needs rediss://")
        assert "TLS with the engine at" in refusal(url.replace("redis:", "rediss:"))
    finally:
        web.shutdown()
        web.server_close()


@pytest.fixture
def authority() -> Authority:
    return Authority()


def test_tls_with_a_private_authority_and_a_certificate_of_the_bridge(
    tmp_path: Path, authority: Authority
) -> None:
    need("redis7")  # the wheels are built without TLS
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    certificate, key = authority.pair().write(tmp_path)
    own = {"engine_certificate_file": str(certificate), "engine_key_file": str(key)}
    with RedisServer("redis7", tls=(certificate, key, ca)) as server:
        url = server.url.replace("127.0.0.1", "localhost")

        assert refusal(url, **own).endswith("engine_ca_file names the certificates to trust")
        assert "can be used" in check(url, engine_ca_file=str(ca), **own)
        # Its default is to ask clients for a certificate.
        with pytest.raises((ConfigError, EngineUnavailable)):
            check(url, engine_ca_file=str(ca))
        with pytest.raises((ConfigError, EngineUnavailable)):
            check(url.replace("rediss:", "redis:"))


def test_one_that_is_away_is_no_error_in_the_configuration(valkey: RedisServer) -> None:
    valkey.kill()
    with pytest.raises(EngineUnavailable, match=r"cannot be reached: Connection refused$"):
        check(valkey.url)
    with pytest.raises(EngineUnavailable, match=r"cannot be reached: No such file or directory$"):
        check(f"unix://{valkey.socket}-other")
    valkey.start()
    valkey.pause()
    try:
        with pytest.raises(EngineUnavailable, match=r"did not answer in time$"):
            check(valkey.url, engine_timeout_seconds=0.1)
    finally:
        valkey.resume()


def test_sentinels_name_the_master(valkey: RedisServer) -> None:
    with RedisServer("valkey", sentinel=sentinel_text(valkey)) as sentinel:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}"

        assert f"127.0.0.1:{valkey.port} can be used" in check(f"{url}/main")
        with pytest.raises(EngineUnavailable, match=r"127.0.0.1:1 .*; the Sentinel at .* does not know o"):
            check(f"{url}/other")


def test_the_password_of_a_sentinel_is_a_setting_of_its_own(valkey: RedisServer) -> None:
    text = f"{sentinel_text(valkey)}\nrequirepass {PASSWORD}\n"
    with RedisServer("valkey", sentinel=text) as sentinel:
        url = f"redis+sentinel://bridge@127.0.0.1:{sentinel.port}/main"
        with pytest.raises(EngineUnavailable, match=r"asks for a password: set engine_sentinel_password$"):
            check(url, engine_password="another")
        with pytest.raises(EngineUnavailable, match=r"Sentinel at 127.0.0.1:\d+ rejects the password$"):
            check(url, engine_sentinel_password=f"{PASSWORD}?")


def test_a_sentinel_that_hangs_delays_nothing(valkey: RedisServer) -> None:
    with (
        RedisServer("valkey", sentinel=sentinel_text(valkey)) as hung,
        RedisServer("valkey", sentinel=sentinel_text(valkey)) as sentinel,
    ):
        hung.pause()
        url = f"redis+sentinel://127.0.0.1:{hung.port},127.0.0.1:{sentinel.port}/main"
        # A start waits 4 s at most, and each Sentinel has five times this.
        assert "can be used" in check(url, engine_timeout_seconds=3, engine_lease_seconds=9)


@pytest.mark.extended
def test_the_process_ends_with_2_before_it_listens(valkey: RedisServer) -> None:
    valkey.ask("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")

    async def serve() -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge", "serve", "--port", "0"),
            cwd=ROOT,
            env=os.environ
            | {"BRIDGE_ENGINE": f"redis://127.0.0.1:{valkey.port}", "BRIDGE_UPSTREAMS__FAL__API_KEY": "k"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output

    code, output = asyncio.run(serve())

    assert code == 2
    assert b"maxmemory-policy volatile-ttl" in output
    assert b"listening" not in output
