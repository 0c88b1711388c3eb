"""The ASGI app and what it is built from; `bridge.app.Bridge` is public."""

from bridge.app.bridge import Bridge

__all__ = ["Bridge"]
