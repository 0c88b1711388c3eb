"""The store that the settings name."""

from __future__ import annotations

import os

from bridge.clock import Clock
from bridge.config.settings import OutputSettings
from bridge.errors import ConfigError
from bridge.outputs.file_store import FileStore
from bridge.outputs.store import OutputStore, StoreError
from bridge.telemetry.logs import keep_from_logs

_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def open_store(settings: OutputSettings, clock: Clock) -> OutputStore | None:
    """The store of `[outputs]`; None without one. Nothing is asked of it yet.

    Raises:
        ConfigError: Its client does not accept the settings.
    """
    if settings.directory is not None:
        return FileStore(settings.directory, clock)
    if settings.bucket is None:
        return None
    from bridge.outputs.s3_store import S3Store  # noqa: PLC0415 - an optional extra

    for name in _SECRETS:
        if secret := os.environ.get(name):
            keep_from_logs(secret)
    bucket, prefix = settings.bucket
    try:
        return S3Store(
            bucket,
            clock,
            prefix=prefix,
            endpoint=settings.endpoint,
            region=settings.region_in_use,
            links=settings.links_in_use,
            public_url=settings.public_url,
            signed_seconds=settings.signed_seconds,
        )
    except StoreError as error:
        raise ConfigError([f"outputs.store: {error}"]) from None
