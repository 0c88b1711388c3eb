"""The ASGI app and its composition; `bridge.app.Bridge` is public."""

from bridge.app.bridge import Bridge

__all__ = ["Bridge"]
