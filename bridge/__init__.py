"""The task event bridge: polls each asynchronous task once and pushes every change to all clients."""

__version__ = "0.1.0"
