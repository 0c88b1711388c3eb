"""The task event bridge: looks once per asynchronous task and tells everybody who waits."""

__version__ = "0.1.0"
