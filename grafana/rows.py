"""The content of the dashboard: the rows and their panels."""

from __future__ import annotations

from collections.abc import Iterator

from grafana.panels import (
    ENDS,
    FAILED_CALLS,
    GREEN,
    GREY,
    OF,
    OURS,
    RATE,
    RED,
    SLOW,
    UP,
    YELLOW,
    Panel,
    Target,
    heatmap,
    lines,
    quantile,
    quantiles,
    rate,
    stat,
    states,
    value_names,
)

ENGINE = "Engine (several bridges)"


def state() -> Iterator[Panel]:
    """What is there, and whether it works."""
    now = " + ignoring (state) ".join(
        f'{weight} * bridge_upstream_state{{{UP}, state="{word}"}}'
        for word, weight in (("VALID", 1), ("OFF", 2), ("INTERRUPTED", 3))
    )
    yield stat(
        "Upstreams",
        "The state of each provider, as in `/status`; of several instances the worst. *failing*: the last "
        "call failed, or the provider rejects the key.",
        Target(f"max by (upstream) ({now})", "{{upstream}}"),
        unit="none",
        width=12,
        defaults={
            "mappings": value_names(("no call yet", GREY), ("works", GREEN), ("off", GREY), ("failing", RED))
        },
        steps=((GREY, None), (GREEN, 1), (GREY, 2), (RED, 3)),
        runbook="operations.md#provider-down",
    )
    yield stat(
        "Version",
        "The version of each running bridge.",
        Target(f"count by (version) (bridge_build_info{{{OF}}})", "{{version}}"),
        unit="none",
        width=4,
        options={"textMode": "name", "graphMode": "none"},
        runbook="operations.md#rolling-updates",
    )
    yield stat(
        "Uptime",
        "Time since the start of each instance.",
        Target(
            f"time() - (process_start_time_seconds{{{OF}}} and on (job, instance) {OURS})", "{{instance}}"
        ),
        unit="s",
        width=4,
        options={"graphMode": "none"},
        runbook="operations.md#drain",
    )
    yield stat(
        "Alerts firing",
        "How many of the alerts fire now, if Prometheus has the rules; their times are marked in all panels.",
        Target('count(ALERTS{alertname=~"Bridge.+", alertstate="firing"}) or vector(0)', "firing"),
        unit="none",
        width=4,
        steps=((GREEN, None), (RED, 1)),
        runbook="operations.md#alerts",
    )


def questions() -> Iterator[Panel]:
    """The overview: one number per question of an operator."""
    ended = rate("bridge_task_transitions_total", f"{UP}, {ENDS}")
    completed = rate("bridge_task_transitions_total", f'{UP}, status="completed"')
    yield stat(
        "Tasks finished",
        "Tasks that ended per minute, and the share of them that completed. Zero while tasks are watched "
        "means that none finishes: see *Open tasks and subscribers* below.",
        Target(f"60 * {ended}", "per minute"),
        Target(f"100 * {completed} / {ended}", "% completed"),
        unit="none",
        defaults={"decimals": 1},
        runbook="operations.md#tasks-stalled",
    )
    yield stat(
        "Detection latency p95",
        "95 of 100 changes are seen within this time of the provider's own timestamp, if it sends one. "
        "Most of it is the poll interval.",
        Target(quantile(0.95, "bridge_detection_seconds", UP), "p95"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 15), (RED, 30)),
        runbook="operations.md#detection-late",
    )
    yield stat(
        "Delivery latency p99",
        "99 of 100 changes reach the socket of their last subscriber within this time of being seen, the "
        "journal included. The objective is half a second.",
        Target(quantile(0.99, "bridge_delivery_seconds", OF), "p99"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 0.25), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    wished = rate("bridge_polls_wished_total", UP)
    made = rate("bridge_polls_total", UP)
    yield stat(
        "Polls avoided",
        "The share of polls that subscribers would have made at the provider's recommended interval and that "
        "were not needed.",
        Target(f"clamp_min(1 - {made} / {wished}, 0)", "of all polls"),
        unit="percentunit",
        defaults={"min": 0, "max": 1, "decimals": 1},
        runbook="metrics.md#how-to-read-each",
    )
    polls = 'call=~"status|status_many"'
    calls = rate("bridge_upstream_requests_total", f"{UP}, {polls}", "upstream")
    failed = rate(
        "bridge_upstream_requests_total",
        f'{UP}, {polls}, outcome=~"error|timeout|unreadable"',
        "upstream",
    )
    yield stat(
        "Provider error rate",
        "The share of status calls that failed, one number per provider: no response, a late one, or one "
        "that could not be parsed. Above half of them for five minutes is an outage.",
        Target(f"{failed} / {calls}", "{{upstream}}"),
        unit="percentunit",
        width=4,
        defaults={"decimals": 0},
        steps=((GREEN, None), (YELLOW, 0.05), (RED, 0.5)),
        runbook="operations.md#provider-down",
    )


def tasks() -> Iterator[Panel]:
    """Life cycle of tasks."""
    yield lines(
        "Tasks ended per minute",
        "By final status. `lost` are tasks that the provider no longer returns, or whose deadline passed.",
        Target(f"60 * {rate('bridge_task_transitions_total', f'{UP}, {ENDS}', 'status')}", "{{status}}"),
        stacked=True,
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Open tasks and subscribers",
        "Tasks being watched, lingering ones included, and their subscribers. Subscribers divided by tasks "
        "is how many share one poll.",
        Target(f"sum(bridge_watches{{{UP}}})", "tasks"),
        Target(f"sum(bridge_interests{{{UP}}})", "subscribers"),
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Notices per minute",
        "Notices sent to subscribers. `stalled` and `upstream_unavailable` are provider problems, "
        "`credential_refused` needs an operator, `fresh` clears the others.",
        Target(f"60 * {rate('bridge_notices_total', OF, 'code')}", "{{code}}"),
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Detection latency",
        "From the provider's own timestamp of a change until the bridge saw it. A provider that stamps whole "
        "seconds adds up to one.",
        *quantiles("bridge_detection_seconds", UP, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 15)),
        runbook="operations.md#detection-late",
    )
    yield lines(
        "Time queued and processing",
        "p50 and p90 of the time that tasks spent in that status. A growing queue is a provider at capacity.",
        Target(quantile(0.5, "bridge_task_seconds", UP, "status"), "{{status}} p50"),
        Target(quantile(0.9, "bridge_task_seconds", UP, "status"), "{{status}} p90", exemplar=True),
        unit="s",
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Polls per task",
        "How many polls a task took until its end, p50 and p90, by provider.",
        Target(quantile(0.5, "bridge_polls_per_task", UP, "upstream"), "{{upstream}} p50"),
        Target(quantile(0.9, "bridge_polls_per_task", UP, "upstream"), "{{upstream}} p90"),
        unit="short",
        runbook="pacing.md#how-to-see-it",
    )
    yield lines(
        "Error of the estimated end",
        "How far the end that was estimated at one random poll of each task was from the true end, as a part "
        "of its run time; p50 by provider.",
        Target(quantile(0.5, "bridge_eta_error_ratio", UP, "upstream"), "{{upstream}}"),
        unit="percentunit",
        runbook="pacing.md#how-to-see-it",
    )
    yield lines(
        "Polls by result",
        "`unchanged` is the cost of waiting; a share above nine in ten means that `poll_max_seconds` could "
        'be larger, or `poll_economy` "fewer".',
        Target(rate("bridge_polls_total", UP, "result"), "{{result}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#provider-rate-limits",
    )


def upstreams() -> Iterator[Panel]:
    """Calls to the providers."""
    yield lines(
        "Requests by outcome",
        "Calls of all kinds. `busy` are rate limits of the provider, `unreadable` means that the dialect no "
        "longer matches its responses.",
        Target(rate("bridge_upstream_requests_total", UP, "outcome"), "{{outcome}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#provider-down",
    )
    yield heatmap(
        "Provider response time",
        "All calls by response time: the further the colour of a cell is from the background, the more. "
        "The points are single calls, with their task.",
        "bridge_upstream_request_seconds",
        UP,
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Response time p99 by provider",
        "99 of 100 status calls get a response within this time. Near `timeout_seconds` polls begin to fail.",
        Target(
            quantile(0.99, "bridge_upstream_request_seconds", f'{UP}, call="status"', "upstream"),
            "{{upstream}}",
        ),
        unit="s",
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Tasks polled per request",
        "Above 1 where the provider shows many tasks with one call, and their polls are due together. If it "
        "is 1 there, `/status` says why.",
        Target(
            rate("bridge_polls_total", UP, "upstream")
            + " / "
            + rate("bridge_upstream_requests_total", f'{UP}, call=~"status|status_many"', "upstream"),
            "{{upstream}}",
        ),
        unit="none",
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Wait for the rate limit",
        "How long a due poll waited for the rate limit of its provider. Above a second, states are late.",
        *quantiles("bridge_budget_wait_seconds", UP),
        unit="s",
        steps=(("transparent", None), (RED, 1)),
        runbook="operations.md#budget-exhausted",
    )
    yield lines(
        "Price of a poll",
        "How many times the price of a poll is what it would be without a rate limit. At 4 states are seen "
        "twice as late; above, the rate limit is too low for the open tasks.",
        Target(f"max by (upstream) (bridge_poll_price_factor{{{UP}}})", "{{upstream}}"),
        unit="none",
        steps=(("transparent", None), (RED, 4)),
        runbook="operations.md#poll-price-high",
    )
    yield states(
        "Circuit breaker",
        "Open after eight failures in a row of different tasks, while only one probe at a time is sent.",
        Target(f"max by (upstream) (bridge_circuit_open{{{UP}}})", "{{upstream}}"),
        words=(("closed", GREEN), ("open", RED)),
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Provider back-off",
        "For how long no call may be sent: the provider's `Retry-After`, or the time between probes after "
        "failures.",
        Target(f"max by (upstream) (bridge_budget_paused_seconds{{{UP}}})", "{{upstream}}"),
        unit="s",
        runbook="operations.md#budget-exhausted",
    )


def fanout() -> Iterator[Panel]:
    """Delivery to subscribers."""
    yield lines(
        "Open connections",
        "Streams, WebSockets and long-polls that are open now, by delivery.",
        Target(f"sum by (delivery) (bridge_connections{{{OF}}})", "{{delivery}}"),
        stacked=True,
        runbook="operations.md#no-traffic",
    )
    yield lines(
        "Connections opened and closed per second",
        "Closed ones below the line, by reason. If `left` is far above the others, something between you and "
        "the clients disconnects them.",
        Target(rate("bridge_connections_total", OF), "opened"),
        Target(f"-{rate('bridge_disconnects_total', OF, 'reason')}", "{{reason}}"),
        runbook="operations.md#what-to-check-when-",
    )
    yield lines(
        "States delivered per second",
        "To all subscribers together.",
        Target(rate("bridge_events_total", OF, "delivery"), "{{delivery}}"),
        unit="cps",
        stacked=True,
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Delivery latency",
        "From a state being seen to the socket of its last subscriber. The points are single changes, with "
        "their task.",
        *quantiles("bridge_delivery_seconds", OF, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    yield lines(
        "Slow clients per minute",
        "States that were skipped for a newer one of the same task, and connections aborted at the write "
        "timeout.",
        Target(f"60 * {rate('bridge_conflated_total', OF)}", "states skipped"),
        Target(f"60 * {rate('bridge_disconnects_total', SLOW)}", "connections aborted"),
        runbook="operations.md#failure-modes",
    )
    yield lines(
        "Resumes per minute",
        "By result. `reset` jumps after a restart without its journal; `ended` are browsers that got 204 and "
        "stop.",
        Target(f"60 * {rate('bridge_resumes_total', OF, 'result')}", "{{result}}"),
        runbook="metrics.md#how-to-read-each",
    )


def process() -> Iterator[Panel]:
    """The process itself."""
    yield lines(
        "Event loop lag",
        "Above 50 ms at p99 it has more work than one core can do.",
        *quantiles("bridge_loop_lag_seconds", OF),
        unit="s",
        steps=(("transparent", None), (RED, 0.25)),
        runbook="operations.md#loop-lag",
    )
    yield lines(
        "Journal append time",
        "The disk, with one commit for all states that arrived together; above 20 ms it is too slow or too "
        "busy.",
        *quantiles("bridge_journal_append_seconds", OF),
        unit="s",
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "Failed journal appends per minute",
        "A state that could not be recorded is not announced: anything above zero needs an operator.",
        Target(f"60 * {rate('bridge_journal_failures_total', OF, 'instance')}", "{{instance}}"),
        steps=(("transparent", None), (RED, 0.001)),
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "Memory",
        "Resident, by instance. After many connections have closed, Python keeps a part of their memory.",
        Target(f"process_resident_memory_bytes{{{OF}}} and on (job, instance) {OURS}", "{{instance}}"),
        unit="bytes",
        runbook="operations.md#memory-growing",
    )
    yield lines(
        "File descriptors in use",
        "The share of the system's limit. Each connection needs one.",
        Target(
            f"process_open_fds{{{OF}}} / process_max_fds{{{OF}}} and on (job, instance) {OURS}",
            "{{instance}}",
        ),
        unit="percentunit",
        defaults={"min": 0, "max": 1},
        steps=(("transparent", None), (RED, 0.9)),
        runbook="operations.md#failure-modes",
    )
    yield lines(
        "CPU",
        "Of one core: apart from the journal's threads the bridge uses only one.",
        Target(
            f"rate(process_cpu_seconds_total{{{OF}}}[{RATE}]) and on (job, instance) {OURS}",
            "{{instance}}",
        ),
        unit="percentunit",
        defaults={"min": 0},
        steps=(("transparent", None), (RED, 0.9)),
        runbook="operations.md#loop-lag",
    )


def engine() -> Iterator[Panel]:
    """What several bridges share."""
    yield states(
        "Engine connection",
        "Whether each bridge reaches the engine and receives its log. While it is away, each bridge "
        "continues the tasks that it polls.",
        Target(f"min by (instance) (bridge_engine_connected{{{OF}}})", "{{instance}}"),
        words=(("away", RED), ("connected", GREEN)),
        runbook="operations.md#engine-away",
    )
    yield lines(
        "Log lag",
        "Age of the newest log entry that each bridge has received. Every bridge writes one a second: above "
        "two seconds, subscribers of that bridge get states late.",
        Target(f"max by (instance) (bridge_engine_lag_seconds{{{OF}}})", "{{instance}}"),
        unit="s",
        steps=(("transparent", None), (RED, 2)),
        runbook="operations.md#engine-lag",
    )
    yield lines(
        "Engine response time p99",
        "By operation. `apply` records states, `want` asks which bridge polls a task, `take` borrows "
        "from the rate limit.",
        Target(quantile(0.99, "bridge_engine_call_seconds", OF, "operation"), "{{operation}}"),
        unit="s",
        runbook="operations.md#engine-lag",
    )
    yield lines(
        "Engine calls per second",
        "By operation. The number depends on changes of tasks, not on subscribers.",
        Target(rate("bridge_engine_calls_total", OF, "operation"), "{{operation}}"),
        unit="reqps",
        stacked=True,
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Failed engine calls per minute",
        "`timeout` after `engine_timeout_seconds`, `unavailable` without a connection, `refused` if the "
        "engine answers with an error.",
        Target(
            f"60 * {rate('bridge_engine_calls_total', FAILED_CALLS, 'outcome')}",
            "{{outcome}}",
        ),
        runbook="operations.md#engine-away",
    )
    yield lines(
        "Engine memory",
        "The share of its limit that is in use. A full engine behaves as one that is away.",
        Target(
            f"max(bridge_engine_memory_used_bytes{{{OF}}})"
            f" / (max(bridge_engine_memory_limit_bytes{{{OF}}}) > 0)",
            "used",
        ),
        unit="percentunit",
        defaults={"min": 0, "max": 1},
        steps=(("transparent", None), (RED, 0.8)),
        runbook="operations.md#engine-memory",
    )
    yield lines(
        "Tasks polled by each bridge",
        "Each task is polled by one bridge, for the subscribers of all.",
        Target(f"sum by (instance) (bridge_owned{{{OF}}})", "{{instance}}"),
        stacked=True,
        runbook="operations.md#tasks-orphaned",
    )
    yield lines(
        "Tasks without a bridge",
        "Tasks that wait to be polled by another bridge, after one has drained or died.",
        Target(f"max(bridge_orphans{{{OF}}})", "tasks"),
        runbook="operations.md#tasks-orphaned",
    )
    yield lines(
        "Longest wait without a bridge",
        "For how long the first of them has been due; above ten seconds no bridge takes it.",
        Target(f"max(bridge_oldest_orphan_seconds{{{OF}}})", "oldest"),
        unit="s",
        steps=(("transparent", None), (RED, 10)),
        runbook="operations.md#tasks-orphaned",
    )
    yield lines(
        "Lease left",
        "How long each bridge may still poll without an answer of the engine, and how many are alive.",
        Target(f"min by (instance) (bridge_lease_seconds{{{OF}}})", "{{instance}}"),
        Target(f"max(bridge_replicas{{{OF}}})", "bridges"),
        unit="none",
        runbook="operations.md#states-fenced",
    )
    yield lines(
        "States by outcome",
        "What the engine did with states: `fenced` ones came from a bridge whose lease had ended.",
        Target(rate("bridge_applies_total", OF, "verdict"), "{{verdict}}"),
        unit="cps",
        runbook="operations.md#states-fenced",
    )
    yield lines(
        "Taken over, lost and repaired per minute",
        "Tasks taken over from another bridge, leases that ran out, new epochs, gaps in the log, states that "
        "were recorded after an outage; and states not recorded yet.",
        Target(f"60 * {rate('bridge_adopted_total', OF)}", "taken over"),
        Target(f"60 * {rate('bridge_leases_lost_total', OF)}", "leases lost"),
        Target(f"60 * {rate('bridge_engine_epochs_total', OF)}", "epochs"),
        Target(f"60 * {rate('bridge_engine_gaps_total', OF)}", "gaps"),
        Target(f"60 * {rate('bridge_engine_reapplied_total', OF)}", "recorded later"),
        Target(f"sum(bridge_engine_unrecorded{{{OF}}})", "not recorded"),
        runbook="operations.md#engine-epochs",
    )


def webhooks() -> Iterator[Panel]:
    """What is delivered to webhooks."""
    yield lines(
        "Attempts per minute",
        "Attempts to deliver, by result. `failed` ones are made again; `dropped` are deliveries to webhooks "
        "that were disabled or full.",
        Target(f"60 * {rate('bridge_webhook_deliveries_total', OF, 'result')}", "{{result}}"),
        runbook="operations.md#webhooks-failing",
    )
    yield lines(
        "Response time of receivers",
        "Of an attempt; after ten seconds it has failed.",
        *quantiles("bridge_webhook_attempt_seconds", OF),
        unit="s",
        runbook="operations.md#webhooks-late",
    )
    yield lines(
        "Waiting deliveries",
        "How many wait for their next attempt, over all bridges; above 10,000 a webhook is disabled.",
        Target(f"max(bridge_webhook_waiting{{{OF}}})", "waiting"),
        Target(f"max(bridge_webhooks_disabled{{{OF}}})", "webhooks disabled"),
        runbook="operations.md#webhook-disabled",
    )
    yield lines(
        "Oldest delivery",
        "For how long the oldest delivery has waited.",
        Target(f"max(bridge_webhook_oldest_seconds{{{OF}}})", "oldest"),
        unit="s",
        steps=(("transparent", None), (RED, 3600)),
        runbook="operations.md#webhooks-late",
    )


def copies() -> Iterator[Panel]:
    """Copies of outputs."""
    yield lines(
        "Copies per minute",
        "Outputs copied in time for the end or later, attempts that failed, and copies that were given up.",
        Target(f"60 * {rate('bridge_output_copies_total', OF, 'result')}", "{{result}}"),
        runbook="operations.md#copies-failing",
    )
    yield lines(
        "Time of a copy",
        "With its wait for a turn. Above `wait_seconds` the end is recorded without it.",
        *quantiles("bridge_output_copy_seconds", OF),
        unit="s",
        runbook="operations.md#copies-late",
    )
    yield lines(
        "Copied bytes per minute",
        "Of the outputs that were copied.",
        Target(f"60 * {rate('bridge_output_copy_bytes_total', OF)}", "copied"),
        unit="bytes",
        runbook="operations.md#copies-late",
    )
    yield lines(
        "Tasks waiting for copies",
        "Ended tasks with outputs still to be copied, over all bridges, and copies being made.",
        Target(f"max(bridge_output_copies_waiting{{{OF}}})", "waiting"),
        Target(f"sum(bridge_output_copies_in_flight{{{OF}}})", "in flight"),
        runbook="operations.md#copies-late",
    )


def costs() -> Iterator[Panel]:
    """What tasks cost."""
    yield lines(
        "Cost per hour",
        "Final costs that providers reported, each upstream in its own unit (HELP text, `/status`).",
        Target(f"3600 * {rate('bridge_cost_total', OF, 'upstream')}", "{{upstream}}"),
        runbook="operations.md#spend",
    )
    yield lines(
        "Cost of the last 24 hours",
        "The same, summed up. What each caller spent today: `GET /v1/spend`.",
        Target(f"sum by (upstream) (increase(bridge_cost_total{{{OF}}}[24h]))", "{{upstream}}"),
        runbook="operations.md#spend",
    )


ROWS = (
    ("State", state),
    ("Overview", questions),
    ("Tasks", tasks),
    ("Upstream", upstreams),
    ("Fan-out", fanout),
    ("Webhooks", webhooks),
    ("Copies", copies),
    ("Costs", costs),
    ("Process", process),
    (ENGINE, engine),
)
