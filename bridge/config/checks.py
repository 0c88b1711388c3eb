"""Checks across settings, reported together with all other configuration errors.

Each check lists the settings it reads and is skipped when one of them is invalid on its own, so that no error
is reported that only follows from another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.config.certificate import CERTIFICATE, KEY, UnusablePair, make_certificate, read_pair
from bridge.core.suggestion import did_you_mean
from bridge.core.task import UPSTREAM_NAME
from bridge.core.webhook_secret import key_of
from bridge.dialects.credentials import check_key
from bridge.dialects.custom import check_table, read_file
from bridge.dialects.registry import CUSTOM, load_dialect, preset_names
from bridge.engine.address import parse_address
from bridge.engine.tls import UnusableFile, client_tls
from bridge.errors import ConfigError, InvalidRequest, RequestError
from bridge.net import as_browsers_send, is_loopback
from bridge.sources.guard import check_url, private_hosts_of
from bridge.sources.revoked_tokens import UnusableList, read_list
from bridge.sources.signatures import check_signing_key
from bridge.telemetry.tracing import EXTRA, can_export

if TYPE_CHECKING:
    from bridge.config.settings import OutputSettings, Settings, UpstreamSettings

ADDED_PREFIX = "wh_"
"""Of the ids of webhooks that are added while the bridge runs."""

_WEBHOOK_NAME = re.compile("[a-z][a-z0-9_-]{0,63}")
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_ENGINE_FILES = ("engine_ca_file", "engine_certificate_file", "engine_key_file")

Errors = Iterator[tuple[str, str]]  # the name of a setting, and what is wrong with it


def cross_field_errors(settings: Settings, invalid: Collection[str]) -> Errors:
    """What is wrong with combinations of settings.

    Args:
        invalid: Names of the settings that are invalid on their own; `settings` has their defaults instead.
    """

    def usable(name: str) -> bool:
        return not any(bad == name or bad.startswith(f"{name}.") for bad in invalid)

    for names, check in _CHECKS:
        if all(usable(name) for name in names):
            yield from check(settings)
    for upstream_name, upstream in settings.upstreams.items():
        prefix = f"upstreams.{upstream_name}"
        for names, upstream_check in _UPSTREAM_CHECKS:
            if all(usable(f"{prefix}.{name}") for name in names):
                yield from upstream_check(upstream_name, upstream)
    if usable("private_hosts") and usable("upstreams"):
        for webhook_name in settings.webhooks:
            yield from _webhook_errors(settings, webhook_name, usable)


def _webhook_errors(settings: Settings, webhook: str, usable: Callable[[str], bool]) -> Errors:
    prefix = f"webhooks.{webhook}"
    for name, check in _WEBHOOK_CHECKS:
        setting = f"{prefix}.{name}" if name else prefix
        if not name or usable(setting):
            for error in check(settings, webhook):
                yield setting, error


def mapping_errors(name: str, upstream: dict[str, Any], path: Path | None, text: str) -> list[str]:
    """What is wrong with the mapping of a `custom` upstream, and with the keys it is to use.

    Runs on the table as the operator wrote it: errors name the line in `path` or in the mapping's own file.

    Args:
        upstream: Its table; the mapping of a `dialect_file` is put into `dialect`.
        path: The configuration file; None for none.
        text: Text of that file.
    """
    prefix, table, file = f"upstreams.{name}", upstream.get("dialect"), upstream.get("dialect_file")
    errors: list[str] = []
    if upstream.get("preset") != CUSTOM:
        unused = [key for key in ("dialect", "dialect_file") if upstream.get(key) is not None]
        errors += [f'{prefix}.{key}: needs preset = "{CUSTOM}"' for key in unused]
    elif (table is None) == (file is None):
        errors.append(f"{prefix}.preset: {CUSTOM} needs a mapping: either [{prefix}.dialect] or dialect_file")
    elif isinstance(table, dict):
        errors += check_table(table, ("upstreams", name, "dialect"), "" if path is None else str(path), text)
    elif isinstance(file, str):
        folder = path.parent if path is not None else Path()
        upstream["dialect"] = read_file(folder / file, errors)
    if errors:
        return errors
    try:
        dialect = load_dialect(name, upstream.get("preset"), upstream.get("dialect"))
    except ConfigError:
        return []  # an unknown preset is reported by the checks below
    errors += _follow_up_errors(prefix, name, upstream)
    for setting, check in (("api_key", check_key), ("callback_signing_key", check_signing_key)):
        key = upstream.get(setting)
        try:
            if isinstance(key, str) and key:
                check(dialect, key)
        except InvalidRequest as error:
            errors.append(f"{prefix}.{setting}: {error}")
    return errors


def unknown_preset(name: str) -> str:
    """The error about the name of a preset that does not exist: the closest one, else all of them."""
    choices = (*preset_names(), CUSTOM)
    all_of_them = f"; choose one of: {', '.join(choices)}"
    return f"unknown preset {name!r}{did_you_mean(name, choices, all_of_them)}"


def check_origin(origin: str) -> str | None:
    """What is wrong with an item of `allowed_origins`, with the right spelling; None for nothing.

    No browser sends what is spelled otherwise: such an item would let no page in, without a warning.
    """
    # User info may be a password; it is not repeated.
    shown = repr(origin[:200]) if "@" not in origin else "an origin with user info"
    if origin == "*":
        return None
    if "*" in origin:
        return f"{shown}: `*` is an item of its own, for every page; list each origin instead"
    if origin.strip().lower() == "null":
        return "'null' is what browsers send for files and sandboxed pages, of all sites: only `*` allows it"
    try:
        right = as_browsers_send(origin)
    except ValueError as error:
        return f"{shown} is not an origin ({error}); write it like https://app.example.com"
    return None if right == origin else f"{shown} is not what browsers send; write {right}"


def _follow_up_errors(prefix: str, name: str, upstream: dict[str, Any]) -> list[str]:
    path = upstream.get("follow_up_path")
    try:
        if isinstance(path, str):
            load_dialect(name, upstream.get("preset"), upstream.get("dialect"), path)
    except ConfigError as error:
        return [f"{prefix}.follow_up_path: {text}" for text in error.errors]
    return []


def _exposure(settings: Settings) -> Errors:
    if settings.auth == "none" and not settings.insecure and not is_loopback(settings.host):
        advice = "listen on a loopback address, set auth, or pass --insecure if a proxy authenticates callers"
        yield "host", f"{settings.host} is open to other machines, and auth is none; {advice}"


def _tls(settings: Settings) -> Errors:
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        missing = CERTIFICATE if certificate is None else KEY
        yield missing, f"required: TLS needs both {CERTIFICATE} and {KEY}"
        return
    try:
        make_certificate(*read_pair(certificate, key))
    except UnusablePair as error:
        path = key if error.setting == KEY else certificate
        yield error.setting, f"{path} is not usable: {error}"


def _token_settings(settings: Settings) -> Errors:
    names = ("token_secrets", "token_jwks_url", "token_issuer")
    if settings.auth == "none":
        for name in (*names, "ticket_secret"):
            if getattr(settings, name):
                yield name, 'needs auth = "token"'
        return
    if settings.auth == "upstream-key" and not any(getattr(settings, name) for name in names):
        return  # operators may do without tokens; see _operator_access
    if not settings.token_issuer:
        yield "token_issuer", "required: the `iss` of every token, for example the name of your backend"
    if bool(settings.token_secrets) == bool(settings.token_jwks_url):
        yield "auth", "tokens need either token_secrets or token_jwks_url"
    if settings.auth == "token" and settings.token_secrets and settings.ticket_secret:
        yield "ticket_secret", "only for use with token_jwks_url; token_secrets sign tickets too"


def _revoked_tokens(settings: Settings) -> Errors:
    path = settings.revoked_tokens_file
    if path is None:
        return
    if not settings.token_issuer:
        yield "revoked_tokens_file", "only for use with tokens, which need token_issuer"
        return
    try:
        read_list(path)
    except UnusableList as error:
        yield "revoked_tokens_file", f"{path} is not usable: {error}"


def _account_secret(settings: Settings) -> Errors:
    if settings.account_secret is not None and settings.auth != "upstream-key":
        yield "account_secret", 'needs auth = "upstream-key"'


def _workers(settings: Settings) -> Errors:
    if settings.workers > 1 and settings.journal == "memory" and not settings.has_shared_engine:
        yield (
            "workers",
            ("several processes need a journal that they share: journal must be sqlite:PATH, or set engine"),
        )


def _shared_engine(settings: Settings) -> Errors:
    if settings.has_shared_engine:
        if "journal" in settings.model_fields_set:
            yield "journal", "only without a shared engine, which records the states: remove one of the two"
        return
    for name in ("engine_password", "engine_sentinel_password"):
        if getattr(settings, name) is not None:
            yield name, "only for use with an engine that is shared: engine = redis://HOST:PORT"


def _engine_files(settings: Settings) -> Errors:
    tls = settings.has_shared_engine and parse_address(settings.engine).tls
    for name in _ENGINE_FILES:
        if getattr(settings, name) is not None and not tls:
            yield name, "only for use with TLS: engine = rediss://HOST:PORT"
    certificate, key = settings.engine_certificate_file, settings.engine_key_file
    if (certificate is None) != (key is None):
        missing = "engine_certificate_file" if certificate is None else "engine_key_file"
        yield missing, "required: a certificate and its key belong together"
    elif tls:
        try:
            client_tls(settings.engine_ca_file, certificate, key)
        except UnusableFile as error:
            yield f"engine_{error.kind}_file", f"not usable: {error}"


def _engine_sentinels(settings: Settings) -> Errors:
    if settings.engine_sentinel_password is None or not settings.has_shared_engine:
        return
    if not parse_address(settings.engine).service:
        yield "engine_sentinel_password", "only for use with engine = redis+sentinel://HOST,HOST,HOST/NAME"


def _engine_times(settings: Settings) -> Errors:
    timeout, lease = settings.engine_timeout_seconds, settings.engine_lease_seconds
    if timeout * 3 > lease:
        above = f"{timeout:g} is more than a third of engine_lease_seconds, which is {lease:g}"
        yield "engine_timeout_seconds", f"{above}: the lease would end before an outage is noticed"


def _same_secrets(settings: Settings) -> Errors:
    # What one process generates at its start, another one cannot know.
    if not settings.is_replicated:
        return
    among = "with a shared engine" if settings.has_shared_engine else f"with {settings.workers} workers"
    if settings.auth == "upstream-key" and settings.account_secret is None:
        yield "account_secret", f"required {among}: every process must name an account the same way"
    if settings.auth != "none" and settings.token_jwks_url and settings.ticket_secret is None:
        yield "ticket_secret", f"required {among} and token_jwks_url: a ticket must be valid at every process"


def _operator_access(settings: Settings) -> Errors:
    # An API key of a provider proves nothing about an operator: without tokens, only the address of the admin
    # listener keeps others from reading /metrics and /status.
    tokens = settings.token_issuer or settings.token_secrets or settings.token_jwks_url
    if settings.auth != "upstream-key" or tokens or settings.admin_address is None:
        return
    host, _ = settings.admin_address
    if not is_loopback(host):
        advice = "listen on a loopback address, or set token_secrets and token_issuer for operator tokens"
        yield (
            "admin_host",
            f"{host} is open to other machines, and API keys do not identify operators; {advice}",
        )


def _admin_port(settings: Settings) -> Errors:
    if settings.admin_address is None:
        return
    _, port = settings.admin_address
    if port == settings.port != 0:
        yield "admin_port", f"{port} is also the value of port; the admin listener needs a port of its own"
    elif port > 65_535:
        yield "admin_port", "required, because port is 65535 and there is no port after it"


def _tracing(settings: Settings) -> Errors:
    if settings.otlp_endpoint and not can_export():
        yield "otlp_endpoint", f"needs {EXTRA}"


def _webhook_hosts(settings: Settings) -> Errors:
    secret = settings.webhook_secret
    if settings.webhook_hosts and secret is None:
        yield "webhook_secret", "required: signs what is delivered to webhook_hosts"
    elif secret is not None and not settings.webhook_hosts:
        yield "webhook_secret", "only for use with webhook_hosts; a webhook has a secret of its own"
    if secret is not None:
        try:
            key_of(secret.get_secret_value())
        except ValueError as error:
            yield "webhook_secret", str(error)


def _webhook_name(settings: Settings, name: str) -> Iterator[str]:
    del settings
    if not _WEBHOOK_NAME.fullmatch(name) or name.startswith(ADDED_PREFIX):
        yield (
            f"a webhook name is a-z, then a-z, 0-9, _ or -, at most 64 characters, and not {ADDED_PREFIX}...,"
            " which is for those that are added while the bridge runs"
        )


def _webhook_url(settings: Settings, name: str) -> Iterator[str]:
    try:
        check_url(settings.webhooks[name].url, private_hosts_of(settings.private_hosts))
    except RequestError as error:
        yield str(error)


def _webhook_secret(settings: Settings, name: str) -> Iterator[str]:
    try:
        key_of(settings.webhooks[name].secret.get_secret_value())
    except ValueError as error:
        yield str(error)


def _webhook_upstreams(settings: Settings, name: str) -> Iterator[str]:
    known = list(settings.upstreams)
    for upstream in settings.webhooks[name].upstreams:
        if upstream not in known:
            all_of_them = f"; configured: {', '.join(known)}"
            yield f"no upstream {upstream[:80]!r} is configured{did_you_mean(upstream, known, all_of_them)}"


def _outputs(settings: Settings) -> Errors:
    outputs = settings.outputs
    if outputs.store is None:
        for name in sorted(outputs.model_fields_set - {"store"}):
            yield f"outputs.{name}", "only for use with outputs.store, which says where copies are kept"
        return
    yield from _bucket(outputs)
    if outputs.max_bytes > outputs.max_bytes_per_task:
        above = f"{outputs.max_bytes} is more than max_bytes_per_task, which is {outputs.max_bytes_per_task}"
        yield "outputs.max_bytes", above


def _bucket(outputs: OutputSettings) -> Errors:
    if outputs.bucket is None:
        for name in ("endpoint", "region"):
            if getattr(outputs, name) is not None:
                yield f"outputs.{name}", "only for use with a bucket: outputs.store = s3://BUCKET/PREFIX"
        if outputs.links_in_use != "bridge":
            yield "outputs.links", 'must be "bridge": a directory has no URLs of its own'
    elif not outputs.region_in_use:
        yield "outputs.region", "required without endpoint, here or as AWS_REGION: signatures name the region"
    if outputs.bucket is not None and len({bool(os.environ.get(name)) for name in _KEYS}) > 1:
        yield "outputs.store", f"{' and '.join(_KEYS)} are needed together, or neither"
    if outputs.bucket is not None and find_spec("obstore") is None:
        yield "outputs.store", "a bucket needs pip install 'task-event-bridge[s3]'"
    if outputs.public_url is not None and outputs.links_in_use != "public":
        yield "outputs.public_url", 'needs links = "public"'


def _upstreams(settings: Settings) -> Errors:
    if not settings.upstreams:
        yield "upstreams", "configure at least one provider, for example [upstreams.qingbo]"


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[Settings], Errors]], ...] = (
    (("host", "auth", "insecure"), _exposure),
    ((CERTIFICATE, KEY), _tls),
    (("auth", "token_secrets", "token_jwks_url", "token_issuer", "ticket_secret"), _token_settings),
    (("auth", "token_issuer", "revoked_tokens_file"), _revoked_tokens),
    (("auth", "account_secret"), _account_secret),
    (("workers", "journal", "engine"), _workers),
    (("engine", "journal"), _shared_engine),
    (("engine", *_ENGINE_FILES), _engine_files),
    (("engine",), _engine_sentinels),
    (("engine_timeout_seconds", "engine_lease_seconds"), _engine_times),
    (("auth", "workers", "engine", "account_secret", "token_jwks_url", "ticket_secret"), _same_secrets),
    (("auth", "admin_host", "token_secrets", "token_jwks_url", "token_issuer"), _operator_access),
    (("auth", "port", "admin_host", "admin_port"), _admin_port),
    (("otlp_endpoint",), _tracing),
    (("webhook_hosts", "webhook_secret"), _webhook_hosts),
    (("outputs",), _outputs),
    (("upstreams",), _upstreams),
)

_WEBHOOK_CHECKS: tuple[tuple[str, Callable[[Settings, str], Iterator[str]]], ...] = (
    ("", _webhook_name),
    ("url", _webhook_url),
    ("secret", _webhook_secret),
    ("upstreams", _webhook_upstreams),
)


def _name(name: str, upstream: UpstreamSettings) -> Errors:
    prefix = f"upstreams.{name}"
    if not UPSTREAM_NAME.fullmatch(name):
        yield prefix, "an upstream name is a-z, then a-z, 0-9 or -, at most 32 characters"
    elif upstream.preset is None and name not in preset_names():
        yield f"{prefix}.preset", unknown_preset(name)


def _poll_interval(name: str, upstream: UpstreamSettings) -> Errors:
    shortest, longest = upstream.poll_min_seconds, upstream.poll_max_seconds
    if shortest is not None and longest is not None and shortest > longest:
        yield (
            f"upstreams.{name}.poll_min_seconds",
            f"{shortest:g} is more than poll_max_seconds, which is {longest:g}",
        )


def _one_key(name: str, upstream: UpstreamSettings) -> Errors:
    if upstream.api_key is not None and upstream.api_key_file is not None:
        yield f"upstreams.{name}.api_key_file", "only without api_key: which of the two keys is meant?"


_UPSTREAM_CHECKS: tuple[tuple[tuple[str, ...], Callable[[str, UpstreamSettings], Errors]], ...] = (
    (("preset",), _name),
    (("poll_min_seconds", "poll_max_seconds"), _poll_interval),
    (("api_key", "api_key_file"), _one_key),
)
