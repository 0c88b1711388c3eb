"""Every setting an operator can choose, with its default, its limits and its description, declared once.

`docs/configuration.md` is generated from the descriptions. `bridge.config.load` reads the values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from bridge.config import limits
from bridge.config.checks import check_origin, cross_field_errors, mapping_errors, unknown_preset
from bridge.config.limits import MEBIBYTE, Profile
from bridge.dialects.dialect import Dialect
from bridge.dialects.hosts import is_host_name
from bridge.dialects.registry import CUSTOM, load_dialect, preset_names
from bridge.engine.address import EMBEDDED, parse_address, without_password
from bridge.net import is_loopback, network

SQLITE = "sqlite:"
LOOPBACK = "127.0.0.1"

MAX_SECRETS = 2
MIN_SECRET_BYTES = 32

FILE = "file:"

_FILE_STORE = re.compile(r"file:(?!//)[^\x00-\x1f]{1,4096}")
_S3_STORE = re.compile(  # the prefix has no segment that is empty, `.` or `..`: proxies take those away
    r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.-]{1,128}){0,8})/?"
)
_REGION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_FILES = (  # relative to the configuration
    "tls_certificate_file",
    "tls_key_file",
    "revoked_tokens_file",
    "engine_ca_file",
    "engine_certificate_file",
    "engine_key_file",
)

Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Limit = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024)]
FileBytes = Annotated[int, Field(ge=1024, le=64 * 1024 * MEBIBYTE)]


class WebhookSettings(BaseModel):
    """One endpoint that states are sent to, under the name the operator gave it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Where deliveries are sent: `https://`; `http://` only for `private_hosts`.")
    secret: SecretStr = Field(
        description="Signs the deliveries: `whsec_` and the base64 of 24 to 64 bytes, as"
        " `openssl rand -base64 32` prints them."
    )
    events: list[Literal["task.final", "task.status", "task.state", "task.stored"]] = Field(
        ["task.final"],
        min_length=1,
        description="What is sent to it: each end (`task.final`), each new status (`task.status`), every"
        " state (`task.state`), copies of outputs that were added after the end (`task.stored`).",
    )
    upstreams: list[str] = Field(default_factory=list, description="Of which upstreams; empty for all.")
    tags: list[str] = Field(
        default_factory=list, description="Of tasks with one of these tags; empty for all."
    )


class OutputSettings(BaseModel):
    """Whether and where the files of results are copied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str | None = Field(
        None,
        description="Where outputs are copied when a task ends: `s3://BUCKET` or `s3://BUCKET/PREFIX`, any"
        " S3 API; or `file:PATH`, a directory. Without it nothing is copied.",
    )
    endpoint: str | None = Field(
        None, description="URL of an S3 API that is not Amazon's, for example `https://minio.example:9000`."
    )
    region: str | None = Field(
        None,
        description="Region of the bucket; defaults to `AWS_REGION`, and to `us-east-1` with an `endpoint`.",
    )
    links: Literal["signed", "public", "bridge"] | None = Field(
        None,
        description="Where `stored_url` leads: to the bucket, `signed` for a while, the default with `s3:`;"
        " to a bucket with public read access (`public`); to the `bridge`, the only one with `file:`.",
    )
    public_url: str | None = Field(
        None,
        description="With `public`: base URL of the copies, such as a CDN's; defaults to the bucket's own.",
    )
    signed_seconds: Annotated[int, Field(ge=60, le=604_800)] = Field(
        3600,
        description="How long a signed URL is good; not longer than the credential that signed it, which for"
        " a role of an instance is some hours.",
    )
    max_bytes: FileBytes = Field(4 * 1024 * MEBIBYTE, description="Files that are larger are not copied.")
    max_bytes_per_task: Bytes = Field(
        16 * 1024 * MEBIBYTE, description="Maximum bytes that are copied of one task's outputs."
    )
    retention_days: Annotated[float, Field(ge=0, le=36_500)] = Field(
        0.0,
        description="How long copies are kept; 0 for no limit, also where the bucket has a rule of its own.",
    )
    wait_seconds: Annotated[float, Field(ge=0, le=600)] = Field(
        30.0,
        description="How long the end of a task waits for its copies, so that its final state has"
        " `stored_url`; a copy that takes longer is added later.",
    )
    copies_in_flight: Annotated[int, Field(ge=1, le=64)] = Field(
        4,
        description="Maximum concurrent copies of one process; with `s3:` each takes some 25 MiB.",
    )

    @field_validator("store")
    @classmethod
    def _is_store(cls, value: str | None) -> str | None:
        # Not repeated in the error: it may contain a key.
        if value is not None and not (_FILE_STORE.fullmatch(value) or _S3_STORE.fullmatch(value)):
            raise ValueError(
                "must be file:PATH, s3://BUCKET or s3://BUCKET/PREFIX, a prefix of letters, digits and -_./;"
                " credentials come from the environment (AWS_ACCESS_KEY_ID) or the instance"
            )
        return value

    @field_validator("endpoint", "public_url")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return None if value is None else _url(value, "; credentials come from the environment").rstrip("/")

    @field_validator("region")
    @classmethod
    def _is_region(cls, value: str | None) -> str | None:
        if value is not None and not _REGION.fullmatch(value):
            raise ValueError("must be the name of a region, such as eu-central-1")
        return value

    @property
    def directory(self) -> Path | None:
        """The directory of `file:PATH`; None with another store, or without one."""
        if self.store is None or not self.store.startswith(FILE):
            return None
        return Path(self.store.removeprefix(FILE))

    @property
    def bucket(self) -> tuple[str, str] | None:
        """Bucket and prefix of `s3://BUCKET/PREFIX`, without slashes at its ends; None with another store."""
        match = _S3_STORE.fullmatch(self.store or "")
        return None if match is None else (match[1], (match[2] or "").strip("/"))

    @property
    def region_in_use(self) -> str:
        """`region`, or its default; empty without one."""
        named = self.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return named or ("us-east-1" if self.endpoint else "")

    @property
    def links_in_use(self) -> Literal["signed", "public", "bridge"]:
        """`links`, or its default for this store."""
        return self.links or ("bridge" if self.bucket is None else "signed")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a configuration was read from.

    Args:
        path: The TOML file; None for none.
        text: Its text, to find the lines of errors in a mapping.
        sources: Which layer set each setting, by name: `file`, `environment` or `command line`.
        warnings: What works today and stops working in the next release.
    """

    path: Path | None = None
    text: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class UpstreamSettings(BaseModel):
    """One provider, under the name the operator gave it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str | None = Field(
        None,
        description="Preset that describes this provider's API; defaults to the upstream's own name."
        " `custom` takes a mapping of your own.",
    )
    dialect: dict[str, Any] | None = Field(
        None, description="With `custom`: the mapping, as a table in this file."
    )
    dialect_file: Path | None = Field(
        None,
        description="With `custom`: the file with the mapping; relative to the configuration file.",
    )
    base_url: str | None = Field(
        None, description="Base URL of the provider's API; defaults to the preset's."
    )
    enabled: bool = Field(
        True,
        description="`false` switches the upstream off: its calls are answered with 503, its open tasks wait"
        " until a restart with `true`.",
    )
    api_key: SecretStr | None = Field(None, description="API key the bridge polls with.")
    api_key_file: Path | None = Field(
        None,
        description="Instead of `api_key`: the file that holds the API key; relative to the configuration"
        " file. It is read again when it changes, so keys rotate without a restart.",
    )
    follow_up_path: Annotated[str, Field(pattern="^/")] | None = Field(
        None,
        description="Path of the call that fetches the result of a completed task, instead of the preset's,"
        " with the same names in braces: V-API documents none.",
    )
    poll_min_seconds: Seconds | None = Field(
        None, description="Shortest interval between two polls of a task; defaults to the preset's."
    )
    poll_max_seconds: Seconds | None = Field(
        None,
        description="Longest interval between two polls of a task while the provider is healthy; defaults"
        " to the preset's.",
    )
    poll_economy: Literal["fewer", "balanced", "sooner"] = Field(
        "balanced",
        description="What weighs more: `fewer` polls, or to see each change `sooner`, about a fifth earlier"
        " for about a fifth more polls.",
    )
    timeout_seconds: Seconds = Field(10.0, description="Timeout of one request to the provider.")
    submit_timeout_seconds: Seconds = Field(
        60.0,
        description="Timeout of one submit. Keep it long: after a timeout the task may exist at the"
        " provider without the bridge knowing its id.",
    )
    max_response_bytes: Bytes = Field(
        32 * 1024 * 1024,
        description="Maximum size of a response of the provider, decompressed. All responses being read"
        " share 64 MiB, or the largest of these if it is more.",
    )
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = Field(
        32,
        description="Maximum concurrent status calls of one process; more than 32 slow the HTTP client down.",
    )
    max_in_flight_total: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        None,
        description="Maximum concurrent status calls over all workers and replicas, if the provider has such"
        " a limit; by default only `max_in_flight` applies, to each of them.",
    )
    max_submits_in_flight: Annotated[int, Field(ge=1, le=1024)] = Field(
        16, description="Maximum concurrent submits; they have connections of their own."
    )
    requests_per_second: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Rate limit over all tasks of this upstream, and over all workers and replicas; unlimited"
        " by default.",
    )
    max_streams: Annotated[int, Field(ge=0)] = Field(
        100,
        description="Maximum number of the provider's own event streams to follow at once; 0 disables them.",
    )
    task_deadline_seconds: Seconds | None = Field(
        86_400.0,
        description="An open task that was watched for longer is reported as lost; a preset or mapping"
        " may have its own default.",
    )
    max_spend_per_caller_per_day: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="What one caller may spend a day (UTC) at this upstream, in the `cost_unit` of its"
        " preset: held by an estimate at the submit, settled with the final cost. Beyond it submits are"
        " answered with 429. `inf` only counts. By default nothing is counted per caller.",
    )
    callback_secret: SecretStr | None = Field(
        None, description="Last part of the callback URL; without it callbacks are rejected."
    )
    callback_signing_key: SecretStr | None = Field(
        None,
        description="Key the provider signs its callbacks with; when set, unsigned callbacks are rejected.",
    )

    @field_validator("preset")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value is not None and value not in (CUSTOM, *preset_names()):
            raise ValueError(unknown_preset(value))
        return value

    @field_serializer("dialect")
    def _summary(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        # Only what names the mapping: an operator may have written a credential into one of its templates.
        return None if value is None else {key: value[key] for key in ("title", "base_url") if key in value}

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        return None if value is None else _url(value, "; put credentials into api_key")


class Settings(BaseModel):
    """Everything an operator can set; read once, at start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(LOOPBACK, description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on; 0 picks a free one.")
    admin_host: str | None = Field(
        None,
        description="Separate address for `/metrics`, `/status` and the API documents; `127.0.0.1` if"
        " only `admin_port` is set.",
    )
    admin_port: Port | None = Field(
        None,
        description="Separate port for `/metrics`, `/status` and the API documents; defaults to `port` +"
        " 1 if `admin_host` is set or `auth` is not `none`.",
    )
    tls_certificate_file: Path | None = Field(
        None,
        description="PEM file with the certificate for `https://`, followed by those of its chain; with"
        " `tls_key_file`. Relative to the configuration file. Both are read again when they change.",
    )
    tls_key_file: Path | None = Field(
        None, description="PEM file with the private key of the certificate, not encrypted."
    )
    insecure: bool = Field(False, description="Allow a non-loopback `host` without authentication.")
    auth: Literal["none", "token", "upstream-key"] = Field(
        "none",
        description="How callers authenticate: `none`, for loopback addresses; `token`, with a signed"
        " token (JWT); `upstream-key`, with their own API key of the provider, for the tasks"
        " that the provider shows to that key.",
    )
    account_secret: SecretStr | None = Field(
        None,
        description="With `upstream-key`: secret for hashing API keys into account names, at least 32 bytes."
        " Without it a new one is generated at each start, so that history and cursors end with a restart.",
    )
    ownership_cache_seconds: Seconds = Field(
        300.0,
        description="With `upstream-key`: how long a successful ownership check (the provider returned"
        " the task for the caller's key) is cached.",
    )
    max_new_keys_per_minute_per_address: Rate = Field(
        60.0,
        description="With `upstream-key`: maximum requests per minute and client address with API keys"
        " not yet verified; burst of one minute; 0 for no limit.",
    )
    token_secrets: list[SecretStr] = Field(
        default_factory=list,
        description="Secrets that sign tokens (HS256), at least 32 bytes each; two during a rotation, the"
        " newer first.",
    )
    token_jwks_url: str | None = Field(
        None,
        description="Instead of `token_secrets`: URL of the JWKS with the keys that sign tokens (RS256,"
        " ES256, EdDSA).",
    )
    token_issuer: str | None = Field(None, description="Required value of the claim `iss`.")
    token_audience: Annotated[str, Field(min_length=1)] = Field(
        "task-event-bridge", description="Required value, or one of the values, of the claim `aud`."
    )
    ticket_secret: SecretStr | None = Field(
        None,
        description="With `token_jwks_url` or `upstream-key`: secret that signs tickets, at least 32"
        " bytes; without it the bridge issues no tickets.",
    )
    revoked_tokens_file: Path | None = Field(
        None,
        description="File with the ids (`jti`) of tokens that are no longer accepted, one a line; relative to"
        " the configuration file. It is read again when it changes.",
    )
    public_url: str = Field(
        "",
        description="Base URL under which clients reach this bridge, with the prefix that a proxy leaves out:"
        " links begin with it.",
    )
    callback_url: str = Field(
        "",
        description="Base URL under which providers reach this bridge, if it is another than `public_url`;"
        " submits to an upstream with a `callback_secret` then request callbacks.",
    )
    journal: str = Field(
        "sqlite:./bridge.db",
        description="Where states are recorded: `sqlite:PATH`, or `memory`, which is lost at exit.",
    )
    journal_cache_bytes: Bytes = Field(
        64 * MEBIBYTE,
        description="Memory for recorded states: with `sqlite` for the newest of each task, the others are"
        " read from the file; with `memory` for the older ones of each task, the oldest are forgotten.",
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        1,
        description="Number of processes that serve the same port on this machine as one service. Needs a"
        " `sqlite` journal, or a shared `engine`.",
    )
    engine: str = Field(
        EMBEDDED,
        description="What several bridges share: `embedded`, nothing; or Valkey (7.2 or newer) or Redis (6.2"
        " or newer), which then replaces the `journal`: `redis://HOST:PORT`, `rediss://HOST:PORT` with TLS,"
        " `redis+sentinel://HOST,HOST,HOST/NAME`, `rediss+sentinel://...` or `unix:///PATH`; with"
        " `USER:PASSWORD@` and `/DATABASE` where needed.",
    )
    engine_password: SecretStr | None = Field(
        None, description="Password of the engine, instead of one in its URL."
    )
    engine_sentinel_password: SecretStr | None = Field(
        None, description="Password of the Sentinels themselves, if they have one."
    )
    engine_ca_file: Path | None = Field(
        None,
        description="With `rediss`: PEM file with the certificates to trust instead of the system's; relative"
        " to the configuration file, as the next two.",
    )
    engine_certificate_file: Path | None = Field(
        None,
        description="With `rediss`: PEM file with the certificate that the bridge presents, with"
        " `engine_key_file`; for servers that demand one (`tls-auth-clients`).",
    )
    engine_key_file: Path | None = Field(None, description="PEM file with its private key, not encrypted.")
    engine_name: str = Field(
        "bridge",
        description="Name of the service at the engine: bridges with the same name are one service. All keys"
        " begin with it, in braces.",
    )
    engine_lease_seconds: Annotated[float, Field(ge=3, le=60)] = Field(
        10.0,
        description="How long a process keeps its tasks without renewing its lease. If one hangs or its"
        " machine is lost, others take over after this time.",
    )
    engine_timeout_seconds: Annotated[float, Field(ge=0.05, le=20)] = Field(
        1.0, description="An answer of the engine that takes longer counts as an outage."
    )
    engine_history: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="States the engine keeps per task, for `?history=1`."
    )
    engine_log: Annotated[int, Field(ge=1000, le=10_000_000)] = Field(
        50_000,
        description="Entries the log of the engine keeps. A bridge that was cut off for longer reads the"
        " state of each task instead.",
    )
    engine_raw_bytes: Annotated[int, Field(ge=0, le=16 * MEBIBYTE)] = Field(
        65_536,
        description="A provider's document that is larger is not kept in the engine: `include=raw` omits it.",
    )
    engine_alone_seconds: Annotated[float, Field(ge=0)] = Field(
        600.0,
        description="How long a bridge that cannot reach the engine continues to poll the tasks it polls.",
    )
    engine_required_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="How long a bridge that starts waits for the engine before it exits with code 1; 0 waits"
        " without limit. Meanwhile it is not ready.",
    )
    linger_seconds: Annotated[float, Field(ge=0)] = Field(
        30.0, description="How long a watch continues after its last subscriber has left."
    )
    first_state_timeout_seconds: Annotated[float, Field(ge=0)] = Field(
        2.0,
        description="How long the first response waits for a task that has not been polled yet; then its"
        " status is `unknown`.",
    )
    sync_wait_seconds: Annotated[float, Field(ge=0)] = Field(
        60.0, description="How long a provider's blocking call (`/v1/tasks/sync`) waits for the final state."
    )
    keepalive_seconds: Seconds = Field(15.0, description="Idle time before a keepalive is sent.")
    write_timeout_seconds: Seconds = Field(
        30.0, description="Write timeout: a slow client that accepts no data for this long is disconnected."
    )
    idle_connection_timeout_seconds: Seconds = Field(
        75.0,
        description="How long a connection without a request stays open. Keep it above the time for which a"
        " proxy keeps its idle connections to the bridge, often 60 s, or requests are sent to closed ones.",
    )
    max_connection_age_seconds: Seconds = Field(
        600.0,
        description="Connections close at a random age of 0.8 to 1.0 times this value, so that clients"
        " rebalance over replicas.",
    )
    retention_seconds: Seconds = Field(
        86_400.0, description="How long a finished task is kept, counted while the bridge runs."
    )
    drain_seconds: Annotated[float, Field(ge=0)] = Field(
        20.0, description="Period over which open streams are closed after SIGTERM."
    )
    limits: Profile = Field(
        Profile.DEFAULT,
        description="`exposed` for a bridge on the internet: sets the limits per address, and lower ones"
        " per caller ([table](operations.md#limits)); a limit that is set itself wins.",
    )
    max_connections: Limit = Field(
        100_000,
        description="Maximum open streams, WebSockets and long-polls; 0 for no limit, here and below.",
    )
    max_connections_per_address: Limit = Field(
        0, description="Maximum open streams, WebSockets and long-polls per client address, or per IPv6 /64."
    )
    max_connections_per_caller: Limit = Field(
        10_000,
        description="Maximum open streams, WebSockets and long-polls per caller. Limits per caller are 0 by"
        ' default with `auth = "none"`, here and below.',
    )
    max_streams_per_second_per_address: Rate = Field(
        0.0,
        description="Maximum new streams and WebSockets per second and client address; burst of ten seconds.",
    )
    max_streams_per_second_per_caller: Rate = Field(
        500.0, description="Maximum new streams and WebSockets per second and caller; burst of ten seconds."
    )
    max_tasks_per_connection: Limit = Field(200, description="Maximum tasks per connection.")
    max_watches_per_address: Limit = Field(
        0, description="Maximum tasks per client address, over all its connections."
    )
    max_watches_per_caller: Limit = Field(
        20_000, description="Maximum tasks per caller, over all its connections."
    )
    max_subscribes_per_second_per_address: Rate = Field(
        0.0,
        description="Maximum tasks that one client address subscribes to per second; burst of ten seconds.",
    )
    max_subscribes_per_second_per_caller: Rate = Field(
        1_000.0, description="Maximum tasks that one caller subscribes to per second; burst of ten seconds."
    )
    max_provider_calls_per_second_per_address: Rate = Field(
        0.0,
        description="Maximum calls to providers that the requests of one client address cause per second:"
        " submits, cancels, lookups by alias, and reads of tasks without a watch; burst of ten seconds.",
    )
    max_provider_calls_per_second_per_caller: Rate = Field(100.0, description="The same per caller.")
    max_lingering_watches: Limit = Field(
        10_000,
        description="Maximum watches without a viewer; above it, here and in the next two, the oldest ends.",
    )
    max_lingering_watches_per_address: Limit = Field(
        0, description="Maximum watches without a viewer that one client address has left behind."
    )
    max_lingering_watches_per_caller: Limit = Field(
        2_000, description="Maximum watches without a viewer that one caller has left behind."
    )
    max_waiting_bytes: Limit = Field(
        32 * MEBIBYTE,
        description="Maximum bytes that clients have not taken yet, over all connections.",
    )
    max_waiting_bytes_per_address: Limit = Field(
        0, description="The same over the connections of one client address."
    )
    max_waiting_bytes_per_caller: Limit = Field(
        16 * MEBIBYTE, description="The same over the connections of one caller."
    )
    max_history_bytes_per_second: Limit = Field(
        32 * MEBIBYTE,
        description="Maximum bytes per second that are read for `?history=1`; burst of ten seconds.",
    )
    max_history_bytes_per_second_per_address: Limit = Field(0, description="The same per client address.")
    max_history_bytes_per_second_per_caller: Limit = Field(16 * MEBIBYTE, description="The same per caller.")
    max_reading_bytes: Limit = Field(
        24 * MEBIBYTE,
        description="Maximum bytes of request bodies that have not arrived completely; the next one is read"
        " when there is room. At least the largest body.",
    )
    max_reading_bytes_per_address: Limit = Field(0, description="The same per client address.")
    max_reading_bytes_per_caller: Limit = Field(16 * MEBIBYTE, description="The same per caller.")
    max_submits_in_flight: Limit = Field(
        1_000, description="Maximum submits that wait for a provider, over all upstreams."
    )
    max_submits_in_flight_per_address: Limit = Field(0, description="The same per client address.")
    max_submits_in_flight_per_caller: Limit = Field(100, description="The same per caller.")
    max_files_in_flight: Limit = Field(
        500, description="Maximum files of results that are on their way through the bridge."
    )
    max_files_in_flight_per_address: Limit = Field(0, description="The same per client address.")
    max_files_in_flight_per_caller: Limit = Field(50, description="The same per caller.")
    max_submits_per_minute_per_caller: Rate = Field(
        0.0, description="Maximum submits per minute and caller; burst of one minute."
    )
    max_request_head_bytes: Bytes = Field(
        256 * 1024, description="Maximum size of a request head (request line with URL, and headers)."
    )
    max_body_bytes: Bytes = Field(
        1024 * 1024, description="Maximum size of a request body, except for submits."
    )
    max_submission_bytes: Bytes = Field(16 * 1024 * 1024, description="Maximum size of the body of a submit.")
    request_header_timeout_seconds: Seconds = Field(
        10.0, description="Maximum time for a request head to arrive."
    )
    request_body_timeout_seconds: Seconds = Field(
        30.0, description="How long a request body may stall, or fall behind one kilobyte per second."
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses and networks of the proxies whose `X-Forwarded-For`, `Forwarded` and"
        " `X-Forwarded-Prefix` are trusted.",
    )
    private_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts that may be at a private address, and are called over `http://` too, where"
        " callers, webhooks or providers name them; names of key servers (`token_jwks_url`) as well. Names or"
        " addresses as they are in the URLs; `*.corp.example` for all subdomains.",
    )
    webhooks: dict[str, WebhookSettings] = Field(
        default_factory=dict,
        description="Endpoints that states are sent to, by name; more can be added with `/v1/webhooks`.",
    )
    webhook_hosts: list[str] = Field(
        default_factory=list,
        description="Hosts to which a submit may have its end delivered (`X-Webhook-URL`), signed with"
        " `webhook_secret`; `*.example.com` for all subdomains. Empty: none.",
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs what is delivered to `webhook_hosts`: `whsec_` and the base64 of 24 to 64 bytes,"
        " as `openssl rand -base64 32` prints them.",
    )
    allowed_hosts: list[str] = Field(
        default_factory=list,
        description="Host names the bridge accepts in `Host`, besides IP addresses, `localhost` and names"
        " without a dot; `*.example.com` for all subdomains. Checked on every route on loopback without"
        " `auth`, and whenever the list is not empty; for `/status` and `/metrics` wherever they ask for no"
        " credential.",
    )
    allowed_origins: list[str] = Field(
        default_factory=list,
        description="Origins of the web pages that may call the bridge (CORS and WebSockets), as browsers"
        " send them: scheme, lower-case host, and the port if it is not the default; `*` for all, without"
        " credentials.",
    )
    inspector: bool = Field(
        True,
        description="Serve the inspector page at `/`; it shows only tasks that the viewer is authorized"
        " to read.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="`debug`, `info`, `warning` or `error`."
    )
    log_format: Literal["auto", "json", "human"] = Field(
        "auto", description="`json`, `human`, or `auto`: `human` on a terminal, else `json`."
    )
    otlp_endpoint: str | None = Field(
        None,
        description="OTLP/HTTP endpoint for traces, for example `http://127.0.0.1:4318`; defaults to the"
        " `OTEL_` variables. Needs `pip install 'task-event-bridge[otel]'`.",
    )
    outputs: OutputSettings = Field(
        default_factory=lambda: OutputSettings.model_validate({}),
        description="Copies of results, which stay when the provider's links have expired.",
    )
    upstreams: dict[str, UpstreamSettings] = Field(
        default_factory=dict, description="The providers, by name; at least one."
    )
    _origin: Origin = PrivateAttr(default_factory=Origin)
    _implied: frozenset[str] = PrivateAttr(default_factory=frozenset)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What works today and stops working in the next release, such as the old name of a setting."""
        return self._origin.warnings

    @property
    def sources(self) -> Mapping[str, str]:
        """Which layer set each setting: `file`, `environment` or `command line`; defaults are left out."""
        return self._origin.sources

    @property
    def file_text(self) -> str:
        """What the configuration file contained; empty without one."""
        return self._origin.text

    def is_exposed(self, name: str) -> bool:
        """Whether `limits = "exposed"` set this limit, not the operator."""
        return self.limits is Profile.EXPOSED and name in self._implied

    @property
    def admin_address(self) -> tuple[str, int] | None:
        """Host and port of the separate admin listener; None when the main one serves its routes too.

        With authentication there always is one: `/metrics` and `/status` must not become public together with
        the routes of callers.
        """
        if self.admin_host is None and self.admin_port is None and self.auth == "none":
            return None
        next_port = self.port + 1 if self.port else 0
        port = self.admin_port if self.admin_port is not None else next_port
        return self.admin_host or LOOPBACK, port

    @property
    def has_shared_engine(self) -> bool:
        """Whether the journal is an engine that other bridges share."""
        return self.engine != EMBEDDED

    @property
    def is_replicated(self) -> bool:
        """Whether several processes may be one service: workers, or bridges on one engine."""
        return self.workers > 1 or self.has_shared_engine

    @property
    def called_back_at(self) -> str:
        """Base URL under which providers call back; empty if they cannot."""
        return self.callback_url or self.public_url

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_errors(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        """Check fields, mappings and combinations of settings; report the errors of all three at once."""
        origin = info.context if isinstance(info.context, Origin) else Origin()
        errors: list[InitErrorDetails] = []
        mapping: list[str] = []
        if isinstance(data, dict) and isinstance(data.get("upstreams"), dict):
            tables = {
                name: dict(table) if isinstance(table, dict) else table
                for name, table in data["upstreams"].items()
            }
            data = {**data, "upstreams": tables}
            for name, table in tables.items():
                if isinstance(table, dict):
                    if isinstance(table.get("api_key_file"), str) and origin.path is not None:
                        table["api_key_file"] = str(origin.path.parent / table["api_key_file"])
                    mapping += mapping_errors(str(name), table, origin.path, origin.text)
        if isinstance(data, dict) and origin.path is not None:
            files = {name: data[name] for name in _FILES if isinstance(data.get(name), str)}
            data = {**data, **{name: str(origin.path.parent / file) for name, file in files.items()}}
        data, origin, given_twice = _password_apart(data, origin)
        implied = limits.fill(data) if isinstance(data, dict) else {}
        data = {**data, **implied} if implied else data
        invalid: set[str] = set()
        try:
            settings = handler(data)
        except ValidationError as error:
            paths = [_key_path(detail["loc"]) for detail in error.errors()]
            invalid = {".".join(path) for path in paths}
            for detail in error.errors():
                # As a custom error, a message needs no context to be shown again.
                kind = PydanticCustomError(detail["type"], "{message}", {"message": detail["msg"]})
                errors.append(InitErrorDetails(type=kind, loc=detail["loc"], input=None))
            # Combinations are checked on the settings that are valid on their own.
            settings = handler(_without(data, paths))
        sentences = [f"{name}: {text}" for name, text in cross_field_errors(settings, invalid)]
        for sentence in (*given_twice, *sentences, *mapping):
            sentence_error = PydanticCustomError("configuration", "{message}", {"message": sentence})
            errors.append(InitErrorDetails(type=sentence_error, loc=(), input=None))
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors, hide_input=True)
        settings._origin = origin  # noqa: SLF001 - its own, and set before it is returned
        settings._implied = frozenset(implied)  # noqa: SLF001 - its own, and set before it is returned
        return settings

    @field_validator("token_secrets")
    @classmethod
    def _are_secrets(cls, value: list[SecretStr]) -> list[SecretStr]:
        if len(value) > MAX_SECRETS:
            raise ValueError(f"at most {MAX_SECRETS}: the current secret and the one it replaces")
        for secret in value:
            _check_secret(secret)
        return value

    @field_validator("ticket_secret", "account_secret")
    @classmethod
    def _is_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_secret(value)
        return value

    @field_validator("token_jwks_url")
    @classmethod
    def _is_safe_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(_url(value))
        if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
            raise ValueError(
                "must begin with https://: a man in the middle could replace its keys and forge tokens"
            )
        return value

    @field_validator("public_url", "callback_url")
    @classmethod
    def _is_base_url(cls, value: str) -> str:
        return _url(value).rstrip("/") if value else ""

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else _url(value, "; put credentials into OTEL_EXPORTER_OTLP_HEADERS")

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: list[str]) -> list[str]:
        for text in value:
            network(text)
        return value

    @field_validator("private_hosts", "allowed_hosts", "webhook_hosts")
    @classmethod
    def _are_host_names(cls, value: list[str]) -> list[str]:
        value = [name[1:-1] if name[:1] + name[-1:] == "[]" else name for name in value]  # as in a URL: [::1]
        for name in value:
            if not is_host_name(name):
                raise ValueError(f"{name!r} is not a valid host name")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: list[str]) -> list[str]:
        errors = [error for error in map(check_origin, value) if error is not None]
        if errors:
            raise ValueError("; ".join(errors))
        return value

    @field_validator("engine")
    @classmethod
    def _is_engine(cls, value: str) -> str:
        if value != EMBEDDED:
            parse_address(value)
        return value

    @field_validator("engine_name")
    @classmethod
    def _is_engine_name(cls, value: str) -> str:
        if not _ENGINE_NAME.fullmatch(value):
            raise ValueError("letters, digits, `.`, `_`, `:` and `-`, at most 64 characters")
        return value

    @field_validator("journal")
    @classmethod
    def _is_journal(cls, value: str) -> str:
        if value != "memory" and not (value.startswith(SQLITE) and value.removeprefix(SQLITE).strip()):
            raise ValueError(f"must be memory or {SQLITE}PATH")
        return value


def dialect_of(name: str, upstream: UpstreamSettings) -> Dialect:
    """The dialect an upstream speaks: its preset, or the operator's own mapping.

    Raises:
        ConfigError: Unknown preset, or an invalid mapping.
    """
    return load_dialect(name, upstream.preset, upstream.dialect, upstream.follow_up_path)


def secrets_of(config: object) -> list[str]:
    """Every secret in the settings, to be redacted from logs."""
    if isinstance(config, SecretStr):
        return [config.get_secret_value()]
    if isinstance(config, BaseModel):
        config = dict(config)
    items = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return [secret for item in items for secret in secrets_of(item)]


def _password_apart(data: Any, origin: Origin) -> tuple[Any, Origin, list[str]]:
    """The settings with the password of the engine's URL as `engine_password`; an error if it is given twice.

    From here on only the password is a secret: the URL is shown in many places.
    """
    if not isinstance(data, dict) or not isinstance(data.get("engine"), str):
        return data, origin, []
    url, password = without_password(data["engine"])
    data = {**data, "engine": url}
    if password is None:
        return data, origin, []
    if data.get("engine_password") is not None:
        return data, origin, ["engine_password: the URL in engine has a password too; which is meant?"]
    data["engine_password"] = password
    sources = {**origin.sources, "engine_password": origin.sources.get("engine", "")}
    return data, replace(origin, sources=sources), []


def _key_path(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """The setting an error is about: (`port`,), (`outputs`, SETTING), (`upstreams`, NAME, SETTING), ...

    A webhook is nothing without its URL and its secret: an error there is about the whole.
    """
    whole = loc[:1] == ("webhooks",) and loc[2:3] in (("url",), ("secret",))
    depths = {"outputs": 2, "upstreams": 3, "webhooks": 2 if whole else 3}
    depth = depths.get(str(loc[0]), 1) if loc else 0
    return tuple(str(part) for part in loc[:depth])


def _without(data: dict[str, Any], places: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """`data` without the settings at `places`; tables are copied down to them."""
    data = dict(data)
    for place in places:
        table = data
        for key in place[:-1]:
            if not isinstance(table.get(key), dict):
                break
            table[key] = table = dict(table[key])
        else:
            table.pop(place[-1], None)
    return data


def _url(value: str, advice: str = "") -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    # The value is not repeated in the error: user info and query may hold a credential.
    if any(mark in value for mark in "@?#") or not urlsplit(value).hostname:
        raise ValueError(f"must be a host with an optional port and path{advice}")
    return value


def _check_secret(secret: SecretStr) -> None:
    text = secret.get_secret_value()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a secret must be UTF-8 text")
    if len(text.encode()) < MIN_SECRET_BYTES:
        raise ValueError(
            f"a secret needs at least {MIN_SECRET_BYTES} bytes; `openssl rand -base64 32` generates one"
        )
    if text.startswith(("-----BEGIN", "ssh-")):
        raise ValueError("a secret is random text, not a key file")
