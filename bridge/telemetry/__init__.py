"""Log, metrics and traces.

Library code logs with `logging.getLogger(__name__)` and `extra=`, counts through a `Metrics`, and traces
through a `Tracing`. Output formats are chosen once, when the process starts (docs/logging.md).
"""
