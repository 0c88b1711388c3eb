"""What the bridge tells its operator about single things: lines of a log, spans of a trace.

Library code logs with `logging.getLogger(__name__)` and `extra=`, and traces through a `Tracing`. How both
look from outside is decided once, when the process starts (docs/logging.md).
"""
