"""The operator's wishes: one TOML file, `BRIDGE_` environment over it, every mistake told at once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from bridge.config import renamed
from bridge.config.checks import cross_field_errors, dialect_errors
from bridge.config.renamed import RenamedSettings
from bridge.dialects.base import Dialect
from bridge.dialects.hosts import is_host_name
from bridge.dialects.registry import CUSTOM, load_dialect, preset_names
from bridge.errors import ConfigError
from bridge.net import is_loopback, network

PREFIX = "BRIDGE_"
NESTED = "__"
SQLITE = "sqlite:"
CLIENT_VARIABLES = frozenset({"BRIDGE_URL", "BRIDGE_TOKEN", "BRIDGE_CONFIG"})

MAX_SECRETS = 2
MIN_SECRET_BYTES = 32

Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Limit = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024)]


class UpstreamSettings(BaseModel):
    """One provider, under the operator's name for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = Field(
        None,
        description="Which preset file reads this provider; the upstream's own name if left out, `custom` for"
        " a mapping of your own.",
    )
    dialect: dict[str, Any] | None = Field(
        None, description="With `custom`: the mapping, as a table of this file."
    )
    dialect_file: Path | None = Field(
        None, description="With `custom`: a file that holds the mapping, relative to the configuration file."
    )
    base_url: str | None = Field(
        None, description="Where the provider's paths begin; the preset's own if left out."
    )
    api_key: SecretStr | None = Field(None, description="The key the bridge looks with.")
    poll_min_seconds: Seconds | None = Field(
        None, description="Never look at a task more often; the provider's advice if left out."
    )
    poll_max_seconds: Seconds | None = Field(
        None, description="Never look less often while all is well; the provider's advice if left out."
    )
    timeout_seconds: Seconds = Field(10.0, description="For one whole request to the provider.")
    submit_timeout_seconds: Seconds = Field(
        60.0, description="For one whole submit: giving up early leaves a task nobody knows of."
    )
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Requests at once; more than 32 makes the client slower."
    )
    requests_per_second: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Rate over all tasks of this upstream; unlimited if left out."
    )
    max_streams: Annotated[int, Field(ge=0)] = Field(
        100, description="How many of the provider's own streams are followed at once; 0 follows none."
    )
    task_deadline_seconds: Seconds | None = Field(
        86_400.0, description="An open task watched for longer counts as lost."
    )
    callback_secret: SecretStr | None = Field(
        None, description="The last part of the callback address; callbacks are refused without one."
    )
    callback_signing_key: SecretStr | None = Field(
        None,
        description="What the provider signs its callbacks with; once it is set, others are refused.",
    )

    @field_validator("preset")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in (CUSTOM, *preset_names()):
            raise ValueError(
                f"there is no preset {value!r}; there are {', '.join(preset_names())} and {CUSTOM}"
            )
        return value

    @field_serializer("dialect")
    def _in_short(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        """Its name: somebody may have written a credential into the mapping itself."""
        return None if value is None else {key: value[key] for key in ("title", "base_url") if key in value}

    @field_validator("base_url")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        return None if value is None else _address(value, "; a credential goes into api_key")


class Settings(BaseSettings):
    """Everything an operator can set. Read once, at start."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTED, extra="forbid", frozen=True, case_sensitive=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on; 0 takes a free one.")
    admin_host: str | None = Field(
        None,
        description="Address for `/metrics`, `/status` and the API documents alone; `127.0.0.1` if only"
        " `admin_port` is set.",
    )
    admin_port: Port | None = Field(
        None,
        description="Port for `/metrics`, `/status` and the API documents alone; the one after `port` if left"
        " out, where `admin_host` is set or `auth` is not `none`.",
    )
    insecure: bool = Field(
        False, description="Serve an address that is not loopback although nobody is asked who they are."
    )
    auth: str = Field(
        "none",
        description="Who may call: with `none` everybody, on a loopback address; with `token` whoever has a"
        " signed token (JWT); with `upstream-key` whoever has a key of the provider, for the tasks which the"
        " provider shows to that key.",
    )
    account_secret: SecretStr | None = Field(
        None,
        description="With `upstream-key`: what keys are hashed with to name their accounts, 32 bytes at"
        " least. Without one it is made at each start, and tasks are seen anew after a restart.",
    )
    ownership_cache_seconds: Seconds = Field(
        300.0,
        description="With `upstream-key`: how long it counts that the provider showed a task to a key.",
    )
    max_new_keys_per_minute_per_address: Rate = Field(
        60.0,
        description="With `upstream-key`: requests of one address with keys no provider took yet, a minute's"
        " worth at once; 0 for no limit.",
    )
    token_secrets: list[SecretStr] = Field(
        default_factory=list,
        description="What tokens are signed with (HS256), 32 bytes at least; two while one replaces another,"
        " the newer first.",
    )
    token_jwks_url: str | None = Field(
        None,
        description="Instead of a secret: where a key server publishes the keys it signs tokens with (RS256,"
        " ES256, EdDSA).",
    )
    token_issuer: str | None = Field(None, description="What `iss` of a token must be.")
    token_audience: Annotated[str, Field(min_length=1)] = Field(
        "task-event-bridge", description="What `aud` of a token must be or hold."
    )
    ticket_secret: SecretStr | None = Field(
        None,
        description="With `token_jwks_url` or `upstream-key`: what tickets are signed with, 32 bytes at"
        " least; there are no tickets without one.",
    )
    public_url: str = Field(
        "",
        description="Where providers reach this bridge; submits to an upstream with a `callback_secret` then"
        " ask to be called back.",
    )
    journal: str = Field(
        "sqlite:./bridge.db",
        description="Where states are recorded: `sqlite:PATH`, or `memory`, which forgets with the process.",
    )
    linger_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="How long a watch outlives its last viewer."
    )
    first_state_timeout_seconds: Annotated[float, Field(ge=0)] = Field(
        2.0, description="How long a first answer waits for a task nobody has looked at."
    )
    sync_wait_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="How long a provider's own waiting call (`/v1/tasks/sync`) waits for the end."
    )
    keepalive_seconds: Seconds = Field(15.0, description="Silence after which a stream says that it lives.")
    write_timeout_seconds: Seconds = Field(
        30.0, description="How long a connection may take no byte that waits for it."
    )
    max_connection_age_seconds: Seconds = Field(
        600.0, description="Connections end at 0.8 to 1.0 of this, to be spread anew."
    )
    retention_seconds: Seconds = Field(86_400.0, description="How long a finished task is remembered.")
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        20.0, description="Over how long open streams are ended on SIGTERM."
    )
    max_connections: Limit = Field(
        100_000, description="Streams, WebSockets and long-polls open at once; 0 for no limit."
    )
    max_connections_per_address: Limit = Field(
        0, description="The same of one address, or of one IPv6 /64; 0 for no limit."
    )
    max_connections_per_caller: Limit = Field(0, description="The same of one caller; 0 for no limit.")
    max_streams_per_second_per_address: Rate = Field(
        0.0,
        description="New streams and WebSockets of one address, ten seconds' worth at once; 0 for no limit.",
    )
    max_streams_per_second_per_caller: Rate = Field(
        0.0,
        description="New streams and WebSockets of one caller, ten seconds' worth at once; 0 for no limit.",
    )
    max_tasks_per_connection: Limit = Field(
        200, description="Tasks that one connection may follow; 0 for no limit."
    )
    max_watches_per_caller: Limit = Field(
        0, description="Tasks that one caller may follow over all connections at once; 0 for no limit."
    )
    max_submits_per_minute_per_caller: Rate = Field(
        0.0, description="Tasks that one caller may submit, a minute's worth at once; 0 for no limit."
    )
    max_request_head_bytes: Bytes = Field(
        256 * 1024, description="The longest head of a request, its URL included."
    )
    max_body_bytes: Bytes = Field(1024 * 1024, description="The largest body of any request but a submit.")
    max_submission_bytes: Bytes = Field(16 * 1024 * 1024, description="The largest body of a submit.")
    request_header_timeout_seconds: Seconds = Field(
        10.0, description="How long the head of a request may take to come."
    )
    request_body_timeout_seconds: Seconds = Field(
        30.0, description="How long a body may stall, or fall behind a kilobyte a second."
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses and networks of proxies whose `X-Forwarded-For` and `Forwarded` are believed.",
    )
    private_hosts: list[str] = Field(
        default_factory=list,
        description="Names that the key server (`token_jwks_url`) may have a private address under;"
        " `*.corp.example` for all below.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Names the bridge may be reached under, beside addresses, `localhost` and names without a"
        " dot; `*.example.com` for all below. Checked on loopback without `auth`, and wherever one is named.",
    )
    allowed_origins: list[str] = Field(
        default_factory=list,
        description="Web pages that may read the bridge; `*` for all, without credentials.",
    )
    inspector: bool = Field(
        True,
        description="Serve the page at `/` that shows what goes on; it shows nobody more than they may read.",
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    log_format: str = Field("auto", description="`json`, `human`, or `auto` by terminal.")
    otlp_endpoint: str | None = Field(
        None,
        description="Where traces go, by OTLP over HTTP, for example `http://127.0.0.1:4318`; else what the"
        " `OTEL_` variables say. Needs `pip install 'task-event-bridge[otel]'`.",
    )
    upstreams: dict[str, UpstreamSettings] = Field(default_factory=dict, description="The providers.")
    _warnings: tuple[str, ...] = PrivateAttr(())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works today and will not in the next release, for example a renamed setting."""
        return self._warnings

    @field_validator("auth")
    @classmethod
    def _auth(cls, value: str) -> str:
        return _one_of(value, ("none", "token", "upstream-key"))

    @field_validator("token_secrets")
    @classmethod
    def _secrets(cls, value: list[SecretStr]) -> list[SecretStr]:
        if len(value) > MAX_SECRETS:
            raise ValueError(f"at most {MAX_SECRETS}: the one that signs and the one it replaces")
        for secret in value:
            _check_secret(secret)
        return value

    @field_validator("ticket_secret", "account_secret")
    @classmethod
    def _one_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_secret(value)
        return value

    @field_validator("token_jwks_url")
    @classmethod
    def _keys(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(_address(value))
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError("must begin with https://: whoever answers it decides who comes in")
        return value

    @field_validator("public_url")
    @classmethod
    def _public_url(cls, value: str) -> str:
        return _address(value).rstrip("/") if value else ""

    @field_validator("otlp_endpoint")
    @classmethod
    def _otlp(cls, value: str | None) -> str | None:
        return (
            None if value is None else _address(value, "; a credential goes into OTEL_EXPORTER_OTLP_HEADERS")
        )

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: list[str]) -> list[str]:
        for one in value:
            network(one)
        return value

    @field_validator("private_hosts", "allowed_hosts")
    @classmethod
    def _private(cls, value: list[str]) -> list[str]:
        for one in value:
            if not is_host_name(one):
                raise ValueError(f"{one!r} is no name of a host")
        return value

    @field_validator("journal")
    @classmethod
    def _journal(cls, value: str) -> str:
        if value != "memory" and not (value.startswith(SQLITE) and value.removeprefix(SQLITE).strip()):
            raise ValueError(f"must be memory or {SQLITE}PATH")
        return value

    @field_validator("log_level")
    @classmethod
    def _level(cls, value: str) -> str:
        return _one_of(value, ("debug", "info", "warning", "error"))

    @field_validator("log_format")
    @classmethod
    def _format(cls, value: str) -> str:
        return _one_of(value, ("auto", "json", "human"))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; nothing else."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def load(path: Path | None, *, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read and check everything.

    Args:
        path: The TOML file; None for the environment alone.
        environment: Instead of the process's own.
        overrides: What the command line said, over everything else.

    Raises:
        ConfigError: With every mistake in it.
    """
    variables = dict(os.environ if environment is None else environment)
    mistakes = _unknown_variables(variables)
    text = _text(path, mistakes)
    names = RenamedSettings()
    config: dict[str, Any] = {}
    for layer in (
        _document(path, text, mistakes),
        _from_environment(variables, mistakes),
        {name: value for name, value in overrides.items() if value is not None},
    ):
        config = _merge(config, names.translate(layer))
    mistakes += names.errors()
    mistakes += cross_field_errors(config)
    for name, upstream in _tables(config.get("upstreams")):
        mistakes += dialect_errors(name, upstream, path, text)
    try:
        settings = Settings.model_validate(InitSettingsSource(Settings, config)())
    except ValidationError as error:
        raise ConfigError(mistakes + [_sentence(one) for one in error.errors()]) from None
    if mistakes:
        raise ConfigError(mistakes)
    settings._warnings = tuple(names.warnings())  # noqa: SLF001 - our own, set once
    return settings


def dialect_of(name: str, upstream: UpstreamSettings) -> Dialect:
    """How this upstream speaks.

    Raises:
        ConfigError: There is no such preset, or the mapping has mistakes.
    """
    return load_dialect(name, upstream.preset, upstream.dialect)


def admin_address(settings: Settings) -> tuple[str, int] | None:
    """Where `/metrics` and `/status` are served alone; None when they are among the other routes.

    With callers who must say who they are, it is never left open to everybody what the bridge is doing.
    """
    if settings.admin_host is None and settings.admin_port is None and settings.auth == "none":
        return None
    beside = settings.port + 1 if settings.port else 0
    port = settings.admin_port if settings.admin_port is not None else beside
    return settings.admin_host or "127.0.0.1", port


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as they work, without a secret in them."""
    return settings.model_dump(mode="json")


def secrets_of(config: object) -> list[str]:
    """Everything in the settings that is secret, so that it can be kept out of what others read."""
    if isinstance(config, SecretStr):
        return [config.get_secret_value()]
    if isinstance(config, BaseModel):
        config = dict(config)
    items = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return [secret for one in items for secret in secrets_of(one)]


def _from_environment(variables: Mapping[str, str], mistakes: list[str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = given = {name.lower(): value for name, value in variables.items()}
    old = {}
    for name in renamed.SETTINGS:  # the source knows only the fields of today
        value = given.pop(f"{PREFIX}{name}".lower(), None)
        if value is not None:
            old[name] = value
    while True:
        try:
            found = source()
            break
        except SettingsError as error:  # one variable a time; it is not shown, for it may be a secret
            field = str(error).partition('"')[2].partition('"')[0]
            name = f"{PREFIX}{field}"
            mistakes.append(f'{name.upper()}: is a list or a table, and written as JSON: ["a", "b"]')
            source.env_vars = given = {
                key: one for key, one in given.items() if not key.startswith(name.lower())
            }
    if isinstance(found.get("upstreams"), dict):  # a shell takes no dash in a variable's name
        found["upstreams"] = {name.replace("_", "-"): one for name, one in found["upstreams"].items()}
    return found | old


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _text(path: Path | None, mistakes: list[str]) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        mistakes.append(f"{path}: {error.strerror}")
    except UnicodeDecodeError:
        mistakes.append(f"{path}: not UTF-8 text")
    return ""


def _document(path: Path | None, text: str, mistakes: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        mistakes.append(f"{path}: {error}")
    except RecursionError:
        mistakes.append(f"{path}: nested too deep")
    return {}


def _tables(value: object) -> list[tuple[str, dict[str, Any]]]:
    items = value.items() if isinstance(value, dict) else ()
    return [(name, table) for name, table in items if isinstance(table, dict)]


def _unknown_variables(variables: Mapping[str, str]) -> list[str]:
    known = {name.upper() for name in (*Settings.model_fields, *renamed.SETTINGS)}
    unknown = []
    for name in sorted(variables):
        if not name.upper().startswith(PREFIX) or name.upper() in CLIENT_VARIABLES:
            continue
        if name.upper().removeprefix(PREFIX).split(NESTED)[0] not in known:
            unknown.append(f"{name}: no such setting")
    return unknown


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: no such setting"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"


def _address(value: str, advice: str = "") -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    if any(mark in value for mark in "@?#") or not urlsplit(value).hostname:
        raise ValueError(f"is an address and a path{advice}")
    return value


def _check_secret(secret: SecretStr) -> None:
    text = secret.get_secret_value()
    if any("\ud800" <= one <= "\udfff" for one in text):
        raise ValueError("a secret is UTF-8 text")
    if len(text.encode()) < MIN_SECRET_BYTES:
        raise ValueError(
            f"a secret has {MIN_SECRET_BYTES} bytes at least; `openssl rand -base64 32` makes one"
        )
    if text.startswith(("-----BEGIN", "ssh-")):
        raise ValueError("a secret is random text, not a key file")


def _one_of(value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}")
    return value
