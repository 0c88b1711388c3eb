"""What no setting can know alone: which of them do not go together, told with everything else that is wrong.

Everything here reads the operator's words as they were written, before any of them was checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridge.core.task import UPSTREAM_NAME
from bridge.dialects.credentials import check_key
from bridge.dialects.custom import check_table, read_file
from bridge.dialects.registry import CUSTOM, load_dialect, preset_names
from bridge.errors import ConfigError, InvalidRequest
from bridge.net import is_loopback
from bridge.sources.signatures import check_signing_key
from bridge.telemetry.tracing import EXTRA, can_export

_TOKEN_SETTINGS = ("token_secrets", "token_jwks_url", "token_issuer", "ticket_secret")
_KEY_SETTINGS = ("account_secret",)


def cross_field_errors(config: dict[str, Any]) -> list[str]:
    """Settings of which each is well, and that do not go together."""
    upstreams = config.get("upstreams")
    mistakes = _access_mistakes(config)
    if config.get("auth", "none") == "none":
        mistakes += _exposed(str(config.get("host", "127.0.0.1")), config.get("insecure", False))
    mistakes += _operations_mistakes(config)
    if config.get("otlp_endpoint") and not can_export():
        mistakes.append(f"otlp_endpoint: needs {EXTRA}")
    if not upstreams:
        return [*mistakes, "upstreams: name at least one provider, for example [upstreams.qingbo]"]
    if isinstance(upstreams, dict):
        for name, upstream in upstreams.items():
            mistakes += _upstream_mistakes(name, upstream if isinstance(upstream, dict) else {})
    return mistakes


def _exposed(host: str, insecure: object) -> list[str]:
    if is_loopback(host) or str(insecure).lower() in {"true", "1", "yes", "on"}:
        return []
    return [
        (
            f"host: {host} is reachable from outside and auth is none: everybody could read every task."
            " Listen on 127.0.0.1, ask for tokens with auth, or pass --insecure if something in front decides"
            " who may come in"
        )
    ]


def _access_mistakes(config: dict[str, Any]) -> list[str]:
    """What does not go together of who may call."""
    auth = config.get("auth", "none")
    if auth == "token":
        return [*_misplaced(config, _KEY_SETTINGS, "upstream-key"), *_token_mistakes(config)]
    if auth == "upstream-key":
        return _operator_mistakes(config)
    return [
        *_misplaced(config, _TOKEN_SETTINGS, "token"),
        *_misplaced(config, _KEY_SETTINGS, "upstream-key"),
    ]


def _misplaced(config: dict[str, Any], names: Sequence[str], auth: str) -> list[str]:
    return [f'{name}: needs auth = "{auth}"' for name in names if config.get(name)]


def _token_mistakes(config: dict[str, Any]) -> list[str]:
    mistakes = _source_mistakes(config)
    if config.get("token_secrets") and config.get("ticket_secret"):
        mistakes.append("ticket_secret: only with token_jwks_url; else token_secrets sign tickets too")
    return mistakes


def _source_mistakes(config: dict[str, Any]) -> list[str]:
    """What is wrong with where tokens come from."""
    mistakes = []
    if not config.get("token_issuer"):
        mistakes.append("token_issuer: say what `iss` of a token must be, for example your backend's name")
    if bool(config.get("token_secrets")) == bool(config.get("token_jwks_url")):
        mistakes.append("auth: token needs either token_secrets or token_jwks_url")
    return mistakes


def _operator_mistakes(config: dict[str, Any]) -> list[str]:
    """Where callers bring keys of providers, no key makes an operator: a token does, or being on the host."""
    if any(config.get(name) for name in ("token_secrets", "token_jwks_url", "token_issuer")):
        return _source_mistakes(config)
    host = str(config.get("admin_host") or "127.0.0.1")
    if is_loopback(host):
        return []
    advice = "listen on 127.0.0.1, or name token_secrets and token_issuer for the operators' tokens"
    return [
        f"admin_host: {host} is reachable from outside, and no key of a provider makes an operator; {advice}"
    ]


def _operations_mistakes(config: dict[str, Any]) -> list[str]:
    port, admin_port = str(config.get("port", 8080)), config.get("admin_port")
    apart = config.get("admin_host") is not None or config.get("auth", "none") != "none"
    if admin_port is not None and str(admin_port) == port != "0":
        return [
            f"admin_port: {port} is the port of the bridge itself; /metrics and /status need one of their own"
        ]
    if admin_port is None and apart and port == "65535":
        return ["admin_port: say which one; there is none after 65535"]
    return []


def _upstream_mistakes(name: str, upstream: dict[str, Any]) -> list[str]:
    where = f"upstreams.{name}"
    mistakes = []
    if not UPSTREAM_NAME.fullmatch(name):
        mistakes.append(f"{where}: a name is a-z, then a-z, 0-9 or -, at most 32 characters")
    elif upstream.get("preset") is None and name not in preset_names():
        mistakes.append(f"{where}.preset: say which one; there are {', '.join(preset_names())}")
    least, most = upstream.get("poll_min_seconds"), upstream.get("poll_max_seconds")
    if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
        mistakes.append(f"{where}.poll_min_seconds: {least} is more than poll_max_seconds, {most}")
    return mistakes


def dialect_errors(name: str, upstream: dict[str, Any], path: Path | None, text: str) -> list[str]:
    """What is wrong with a mapping, and with the key it is to use; a file's mapping is put in its place."""
    where, inside, file = f"upstreams.{name}", upstream.get("dialect"), upstream.get("dialect_file")
    mistakes: list[str] = []
    if upstream.get("preset") != CUSTOM:
        given = [key for key in ("dialect", "dialect_file") if upstream.get(key) is not None]
        mistakes += [f'{where}.{key}: needs preset = "{CUSTOM}"' for key in given]
    elif (inside is None) == (file is None):
        mistakes.append(
            f"{where}.preset: {CUSTOM} needs the mapping: either [{where}.dialect] or dialect_file"
        )
    elif isinstance(inside, dict):
        at = ("upstreams", name, "dialect")
        mistakes += check_table(inside, at, "" if path is None else str(path), text)
    elif isinstance(file, str):
        beside = path.parent if path is not None else Path()
        upstream["dialect"] = read_file(beside / file, mistakes)
    return mistakes or _key_mistakes(name, upstream)


def _key_mistakes(name: str, upstream: dict[str, Any]) -> list[str]:
    try:
        dialect = load_dialect(name, upstream.get("preset"), upstream.get("dialect"))
    except ConfigError:
        return []  # which dialect it is, is a mistake told elsewhere
    mistakes = []
    for setting, check in (("api_key", check_key), ("callback_signing_key", check_signing_key)):
        key = upstream.get(setting)
        try:
            if isinstance(key, str) and key:
                check(dialect, key)
        except InvalidRequest as error:
            mistakes.append(f"upstreams.{name}.{setting}: {error}")
    return mistakes
