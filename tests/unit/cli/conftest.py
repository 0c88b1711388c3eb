"""What the tests of the commands share with those of the client: a bridge to talk to."""

from tests.unit.client.conftest import anyio_backend, fake

__all__ = ["anyio_backend", "fake"]
