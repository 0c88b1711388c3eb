"""Public import path of the upstream HTTP session. It lives in `bridge.sources.http_client`."""

from bridge.sources.http_client import Session

__all__ = ["Session"]
