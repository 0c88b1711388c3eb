"""The command line: one module per command; `bridge.cli:main` is the entry point."""

from bridge.cli.main import main

__all__ = ["main"]
