"""The other processes of the same service on this machine, for the routes that answer for all of them."""

from __future__ import annotations

from typing import Any, Protocol

from bridge.telemetry.exposition import Collects

# Of an upstream's states the one that needs attention; a worker that has not called yet knows nothing.
_STATES = ("INTERRUPTED", "OFF", "VALID", "INITIALIZING")

Status = dict[str, Any]
WatchRow = tuple[str, str, str, int, bool, dict[str, object] | None]


class Workers(Protocol):
    """What one worker can ask about all. Each method raises `EngineUnavailable` without an answer."""

    async def metrics(self) -> Collects:
        """The metrics of all workers; what those have counted that have ended is in them."""

    async def statuses(self) -> list[tuple[Status, Status]]:
        """Of each worker its process, and what it says of itself."""

    async def watches(self) -> list[WatchRow]:
        """What the other workers watch: upstream, account, task id, viewers, whether it is unseen yet, and
        the next poll by the one that polls it.
        """


def merged_status(own: Status, statuses: list[tuple[Status, Status]]) -> Status:
    """The status of the service.

    Args:
        own: What this process says of itself; what differs between them otherwise is taken from it.
        statuses: Of all processes, this one included.
    """
    documents = [status for _, status in statuses] or [own]
    return own | {
        "since": min(document["since"] for document in documents),
        "connections": sum(document["connections"] for document in documents),
        "webhooks": _webhooks([document["webhooks"] for document in documents], own["webhooks"]),
        "outputs": _outputs([document["outputs"] for document in documents], own["outputs"]),
        "upstreams": {
            name: _upstream(
                [document["upstreams"][name] for document in documents if name in document["upstreams"]]
            )
            for name in own["upstreams"]
        },
        "workers": [
            process
            | {
                "since": status["since"],
                "ready": status["ready"],
                "connections": status["connections"],
                "watches": sum(upstream["watches"] for upstream in status["upstreams"].values()),
            }
            for process, status in statuses
        ],
    }


def _upstream(parts: list[Status]) -> Status:
    state = min(parts, key=lambda part: _STATES.index(part["state"]))
    errors = [part["last_error"] for part in parts if part["last_error"] is not None]
    budgets = [part["budget"] for part in parts]
    return parts[0] | {
        "state": state["state"],
        "state_since": state["state_since"],
        "last_error": max(errors, key=lambda error: str(error["at"]), default=None),
        "watches": sum(part["watches"] for part in parts),
        "viewers": sum(part["viewers"] for part in parts),
        "budget": budgets[0]
        | {
            # `max_in_flight` is each worker's own; the rate is that of all.
            "in_flight": sum(budget["in_flight"] for budget in budgets),
            "max_in_flight": sum(budget["max_in_flight"] for budget in budgets),
            "paused_seconds": max(budget["paused_seconds"] for budget in budgets),
            "circuit_open": any(budget["circuit_open"] for budget in budgets),
        },
        **_status_many(parts),
        "costs": parts[0]["costs"]
        | {name: sum(part["costs"][name] for part in parts) for name in ("total", "tasks", "unreported")},
        # The price is one for all; a worker that polls little receives it within seconds.
        "poll_price_seconds": max(part["poll_price_seconds"] for part in parts),
        "poll_price_factor": max(part["poll_price_factor"] for part in parts),
        "planned_polls_per_second": round(sum(part["planned_polls_per_second"] for part in parts), 3),
        "kinds": _kinds(parts),
    }


def _status_many(parts: list[Status]) -> Status:
    """The calls about many tasks, of the worker in which they rest for longest."""
    calls = [part["status_many"] for part in parts if "status_many" in part]
    return (
        {"status_many": max(calls, key=lambda one: (one["rests_seconds"], one["failures"]))} if calls else {}
    )


def _outputs(parts: list[Status | None], own: Status | None) -> Status | None:
    """The copies of the service: what waits is the same for all workers, each makes some."""
    known = [part for part in parts if part is not None]
    if own is None or not known:
        return own
    last = max(known, key=lambda part: str(part["last_error_at"] or ""))
    return own | {
        "in_flight": sum(part["in_flight"] for part in known),
        "ends_waiting": sum(part["ends_waiting"] for part in known),
        "last_error": last["last_error"],
        "last_error_at": last["last_error_at"],
    }


def _webhooks(parts: list[Status], own: Status) -> Status:
    """The webhooks of the service: what waits is the same for all workers, each has attempts of its own."""
    ends: dict[tuple[str, str], list[str]] = {}
    for endpoint in (endpoint for part in parts for endpoint in part["endpoints"]):
        for name in ("last_success_at", "last_failure_at"):
            if endpoint[name] is not None:
                ends.setdefault((endpoint["id"], name), []).append(endpoint[name])
    return own | {
        "endpoints": [
            endpoint
            | {
                name: max(ends.get((endpoint["id"], name), ()), default=None)
                for name in ("last_success_at", "last_failure_at")
            }
            for endpoint in own["endpoints"]
        ]
    }


def _kinds(parts: list[Status]) -> list[Status]:
    """Of each model and action the sample that most were learned from: workers share what they learn."""
    best: dict[tuple[Any, Any], Status] = {}
    for row in (row for part in parts for row in part["kinds"]):
        kind = row["model"], row["action"]
        if kind not in best or row["samples"] > best[kind]["samples"]:
            best[kind] = row
    return list(best.values())
