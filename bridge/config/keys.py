"""Which upstreams have no API key to be polled with: a warning, since the bridge starts without one."""

from __future__ import annotations

from bridge.config.settings import Settings, UpstreamSettings, dialect_of
from bridge.dialects.dialect import Dialect
from bridge.sources.key_file import UnusableKey, read_key


def missing_keys(settings: Settings) -> dict[str, str]:
    """A sentence for each upstream without an API key, by name.

    Not for an upstream that is off, for a mapping that sends none, nor where callers bring their own.
    """
    if settings.auth == "upstream-key":
        return {}
    sentences: dict[str, str] = {}
    for name, upstream in settings.upstreams.items():
        dialect = dialect_of(name, upstream)
        if upstream.enabled and dialect.needs_key:
            sentence = _missing(upstream, dialect)
            if sentence is not None:
                sentences[name] = sentence
    return sentences


def _missing(upstream: UpstreamSettings, dialect: Dialect) -> str | None:
    if upstream.api_key_file is not None:
        try:
            read_key(upstream.api_key_file, dialect)
        except UnusableKey as error:
            return f"no API key in {upstream.api_key_file}: {error}"
        return None
    if upstream.api_key is not None and upstream.api_key.get_secret_value().strip():
        return None
    return "no API key: set api_key or api_key_file"
