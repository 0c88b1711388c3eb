"""The Python client of a bridge. `task_event_bridge` has the same names."""

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge
from bridge.client.errors import BridgeUnreachable, ResultTimeout, TaskFailed, UntrustedBridge
from bridge.client.state import Ref, TaskNotice, TaskState
from bridge.client.sync import SyncBridge
from bridge.core.task import Status
from bridge.errors import (
    BridgeError,
    Conflict,
    Forbidden,
    InvalidRequest,
    JournalError,
    LimitExceeded,
    MethodNotAllowed,
    Overloaded,
    RequestError,
    TooLarge,
    Unauthenticated,
    UnknownRoute,
    UnknownTask,
    UnknownUpstream,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
)

__all__ = [
    "Bridge",
    "BridgeError",
    "BridgeUnreachable",
    "Conflict",
    "Forbidden",
    "InvalidRequest",
    "JournalError",
    "LimitExceeded",
    "MethodNotAllowed",
    "Overloaded",
    "Ref",
    "RequestError",
    "ResultTimeout",
    "Status",
    "SyncBridge",
    "TaskFailed",
    "TaskNotice",
    "TaskState",
    "Timeouts",
    "TooLarge",
    "Unauthenticated",
    "UnknownRoute",
    "UnknownTask",
    "UnknownUpstream",
    "UnreadablePayload",
    "UntrustedBridge",
    "UpstreamError",
    "UpstreamRefused",
    "UpstreamTimeout",
    "UpstreamUnavailable",
]
