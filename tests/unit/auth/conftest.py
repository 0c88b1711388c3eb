"""What the tests of ownership share with those of the watchers: a pool over fakes."""

from tests.unit.watchers.conftest import build

__all__ = ["build"]
