"""The Python client of a bridge, under the name of its distribution: an alias of `bridge.client`."""

from bridge.client import *  # noqa: F403 - the names of `__all__`, no more and no fewer
from bridge.client import __all__ as __all__
