"""What the routes are built from: each routes class keeps the services it uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bridge.auth.authenticator import Authenticator
from bridge.auth.origins import Origins
from bridge.auth.tickets import Tickets
from bridge.clock import Clock
from bridge.config.certificate import CertificateFiles
from bridge.config.settings import Settings
from bridge.delivery.groups import Groups
from bridge.delivery.longpoll import LongPolls
from bridge.delivery.selections import Selections
from bridge.delivery.subscriptions import Subscriptions
from bridge.engine.ledger import Ledger
from bridge.hub.hub import Hub
from bridge.journal.base import Journal
from bridge.outputs.copies import Copies
from bridge.outputs.source import OutputSource
from bridge.outputs.store import OutputStore
from bridge.replica.replica import Replica
from bridge.replica.shared import SharedKnowledge
from bridge.spend.limits import SpendLimits
from bridge.telemetry.metrics import Metrics
from bridge.watchers.pool import Pool
from bridge.watchers.submitter import Submitter
from bridge.web.limits.limits import Limits
from bridge.web.open_requests import OpenRequests
from bridge.web.workers import Workers
from bridge.webhooks.registry import Webhooks


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a route may need.

    Args:
        certificate: What the server speaks TLS with; None without.
        operators: Authenticates operators, for metrics and status.
        ledger: What it remembers beside states.
        tickets: None where the bridge issues no tickets.
        output_source: Reads files of results from their providers.
        output_store: Where copies of them are; None where none are kept.
        workers: The other processes of this service on this machine; None without.
        replaced: Whether another process takes the place of this one while it drains.
        replica: This process as one of several; None if it is alone.
        copies: What copies outputs into a store; None without one.
        knowledge: What it shares with the others, likewise.
        spend: What callers may spend; None where nothing is counted.
    """

    settings: Settings
    clock: Clock
    certificate: CertificateFiles | None
    metrics: Metrics
    journal: Journal
    ledger: Ledger
    webhooks: Webhooks
    pool: Pool
    hub: Hub
    subscriptions: Subscriptions
    selections: Selections
    groups: Groups
    longpolls: LongPolls
    submitter: Submitter
    open_requests: OpenRequests
    origins: Origins
    limits: Limits
    authenticator: Authenticator
    operators: Authenticator
    tickets: Tickets | None
    output_source: OutputSource
    output_store: OutputStore | None = None
    workers: Workers | None = None
    replaced: Callable[[], bool] = bool
    replica: Replica | None = None
    knowledge: SharedKnowledge | None = None
    copies: Copies | None = None
    spend: SpendLimits | None = None
