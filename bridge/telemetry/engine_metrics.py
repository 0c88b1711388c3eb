"""The metrics of a bridge that shares an engine with others: calls, log, ownership and recorded states."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from bridge.telemetry.declare import Declare

OPERATIONS = (
    "session",
    "leave",
    "bury",
    "want",
    "owned",
    "rewant",
    "keep",
    "claim",
    "release",
    "call",
    "apply",
    "records",
    "history",
    "newest",
    "listing",
    "oldest",
    "accounts",
    "register",
    "forget",
    "read",
    "announce",
    "confirm",
    "take",
    "report",
    "probe",
    "learn",
    "learned",
    "put",
    "get",
    "begin",
    "finish",
    "add_jobs",
    "claim_jobs",
    "finish_job",
    "waiting",
    "drop_queue",
    "hold",
    "settle",
    "census",
)
"""The methods of `bridge.engine.base.Engine`."""

ENGINE_OUTCOMES = ("ok", "timeout", "unavailable", "refused")
"""Of a call: answered; too late; no connection, or it broke; the engine answered that it cannot, such as
without memory.
"""

APPLY_OUTCOMES = ("recorded", "duplicate", "fenced", "final", "stale")
REAPPLIED = ("same", "merged")

_CALL = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class EngineMetrics:
    """One attribute for each metric, named after what it counts.

    Gauges have `set`, and `set_function` for what must be right at the moment of a scrape, such as
    `lag_seconds` and `lease_seconds`: set from the connection they are about, they would stop with it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = Declare(registry)

        # The connection
        self.connected = declare.gauge(
            "bridge_engine_connected", "1 while the engine answers and its log arrives; else 0."
        )
        calls = declare.counter(
            "bridge_engine_calls_total",
            "Calls to the engine, by operation and outcome.",
            operation=OPERATIONS,
            outcome=ENGINE_OUTCOMES,
        )
        seconds = declare.histogram(
            "bridge_engine_call_seconds",
            "Response time of the engine, by operation; reading the log waits on purpose and is not in it.",
            _CALL,
            operation=[name for name in OPERATIONS if name != "read"],
        )
        self._calls = {
            (operation, outcome): calls.labels(operation, outcome)
            for operation in OPERATIONS
            for outcome in ENGINE_OUTCOMES
        }
        self._seconds = {name: seconds.labels(name) for name in OPERATIONS if name != "read"}
        self.lag_seconds = declare.gauge(
            "bridge_engine_lag_seconds", "Age of the newest log entry that this bridge has received."
        )
        self.gaps = declare.counter(
            "bridge_engine_gaps_total",
            "Times that log entries were missing, and records were read instead.",
        ).labels()
        self.epochs = declare.counter(
            "bridge_engine_epochs_total",
            "New epochs: the history of the engine is another one.",
        ).labels()
        self.memory_used = declare.gauge(
            "bridge_engine_memory_used_bytes", "Memory that the engine uses; 0 if unknown."
        )
        self.memory_limit = declare.gauge(
            "bridge_engine_memory_limit_bytes", "Memory that the engine may use; 0 without a limit."
        )

        # States
        applies = declare.counter(
            "bridge_applies_total",
            "States sent to the engine, by what it did with them.",
            verdict=APPLY_OUTCOMES,
        )
        self.applies = {outcome: applies.labels(outcome) for outcome in APPLY_OUTCOMES}
        self.unrecorded = declare.gauge(
            "bridge_engine_unrecorded", "States shown to viewers that the engine has not recorded yet."
        )
        reapplied = declare.counter(
            "bridge_engine_reapplied_total",
            "States recorded after an outage of the engine: unchanged, or merged with another.",
            how=REAPPLIED,
        )
        self.reapplied = {how: reapplied.labels(how) for how in REAPPLIED}

        # Ownership
        self.lease_seconds = declare.gauge(
            "bridge_lease_seconds", "Seconds for which this bridge may still poll; 0 without a lease."
        )
        self.leases_lost = declare.counter(
            "bridge_leases_lost_total", "Times that the lease of this bridge ran out."
        ).labels()
        self.owned = declare.gauge("bridge_owned", "Tasks that this bridge polls for all.")
        self.adopted = declare.counter(
            "bridge_adopted_total", "Tasks taken over from a bridge that drained or died."
        ).labels()
        self.orphans = declare.gauge(
            "bridge_orphans", "Tasks that wait for a bridge to poll them, over all bridges."
        )
        self.oldest_orphan_seconds = declare.gauge(
            "bridge_oldest_orphan_seconds", "For how long the first of them has been due."
        )
        self.replicas = declare.gauge("bridge_replicas", "Live bridges on this engine.")

    def called(self, operation: str, outcome: str, seconds: float) -> None:
        """Count one call to the engine and the seconds it took; without a connection there is no time."""
        self._calls[operation, outcome].inc()
        if outcome != "unavailable" and operation != "read":
            self._seconds[operation].observe(seconds)
