"""The command `taskbridge webhooks`: the endpoints of a running bridge, and what was delivered to them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.columns import columns
from bridge.cli.configuration import PROGRAM
from bridge.cli.connection import ca_file_option, exit_with, token_option, url_option

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bridge.client.webhooks import WebhookAdmin, WebhookAttempt, WebhookDelivery, WebhookEndpoint

DONE = 0
NOT_DELIVERED = 1
_MAX_ERROR = 60  # characters of an error in a table
_json = click.option("--json", "as_json", is_flag=True, help="Print the bridge's answer as JSON.")


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    for option in (ca_file_option, token_option, url_option):
        command = option(command)
    return command


@click.group()
def webhooks() -> None:
    """Administer the webhooks of a running bridge. Needs a token with the scope `admin`.

    Exit code: 0 if it was done, 1 if an attempt was not delivered, 2 for bad usage or a rejected request, 3
    if the bridge cannot be reached.
    """


@webhooks.command("list")
@_json
@_connected
def list_command(*, as_json: bool, **where: Any) -> None:
    """Print all endpoints, those in the configuration included. Secrets are not printed."""

    async def call(admin: WebhookAdmin) -> int:
        endpoints = await admin.list()
        if as_json:
            _print_json([endpoint.document for endpoint in endpoints])
        elif endpoints:
            click.echo(_endpoints_table(endpoints))
        else:
            click.echo(f"no webhooks; add one: {PROGRAM} webhooks add URL")
        return DONE

    _run(call, "list", **where)


@webhooks.command("add")
@click.argument("target", metavar="TARGET_URL")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(["task.final", "task.status", "task.state", "task.stored"]),
    help="Which states: final ones (the default), each with another status, or all. May be repeated.",
)
@click.option("--upstream", "upstreams", multiple=True, help="Only of this upstream; may be repeated.")
@click.option("--tag", "tags", multiple=True, help="Only of tasks with this tag; may be repeated.")
@_json
@_connected
def add_command(
    target: str,
    *,
    events: tuple[str, ...],
    upstreams: tuple[str, ...],
    tags: tuple[str, ...],
    as_json: bool,
    **where: Any,
) -> None:
    """Deliver states to TARGET_URL. Prints the id of the endpoint, and its secret this once."""

    async def call(admin: WebhookAdmin) -> int:
        new = await admin.create(target, events=events or ("task.final",), upstreams=upstreams, tags=tags)
        _print_secret(new, as_json=as_json)
        return DONE

    _run(call, "add", **where)


@webhooks.command("remove")
@click.argument("endpoint")
@_connected
def remove_command(endpoint: str, **where: Any) -> None:
    """Delete ENDPOINT, with the deliveries that wait for it."""

    async def call(admin: WebhookAdmin) -> int:
        await admin.delete(endpoint)
        return DONE

    _run(call, "remove", **where)


@webhooks.command("enable")
@click.argument("endpoint")
@_connected
def enable_command(endpoint: str, **where: Any) -> None:
    """Deliver to ENDPOINT again, and what waits for it at once, also if it is not disabled."""
    _set_enabled(endpoint, "enable", enabled=True, **where)


@webhooks.command("disable")
@click.argument("endpoint")
@_connected
def disable_command(endpoint: str, **where: Any) -> None:
    """Deliver nothing to ENDPOINT until it is enabled. What waits is kept, new states are not."""
    _set_enabled(endpoint, "disable", enabled=False, **where)


@webhooks.command("rotate-secret")
@click.argument("endpoint")
@_json
@_connected
def rotate_secret_command(endpoint: str, *, as_json: bool, **where: Any) -> None:
    """Print a new secret of ENDPOINT, this once. The old one also signs for 24 h."""

    async def call(admin: WebhookAdmin) -> int:
        _print_secret(await admin.rotate_secret(endpoint), as_json=as_json)
        return DONE

    _run(call, "rotate-secret", **where)


@webhooks.command("test")
@click.argument("endpoint")
@_connected
def test_command(endpoint: str, **where: Any) -> None:
    """Send one `webhook.test` to ENDPOINT and print what came of it."""

    async def call(admin: WebhookAdmin) -> int:
        return _print_attempt(await admin.test(endpoint))

    _run(call, "test", **where)


@webhooks.command("deliveries")
@click.argument("endpoint")
@_json
@_connected
def deliveries_command(endpoint: str, *, as_json: bool, **where: Any) -> None:
    """Print the newest deliveries to ENDPOINT, the newest first."""

    async def call(admin: WebhookAdmin) -> int:
        found = await admin.deliveries(endpoint)
        if as_json:
            _print_json([delivery.document for delivery in found])
        else:
            click.echo(_deliveries_table(found) if found else "nothing was delivered yet")
        return DONE

    _run(call, "deliveries", **where)


@webhooks.command("redeliver")
@click.argument("endpoint")
@click.argument("delivery")
@_connected
def redeliver_command(endpoint: str, delivery: str, **where: Any) -> None:
    """Send DELIVERY (its webhook-id) to ENDPOINT once more, and print what came of it."""

    async def call(admin: WebhookAdmin) -> int:
        return _print_attempt(await admin.redeliver(endpoint, delivery))

    _run(call, "redeliver", **where)


def _set_enabled(endpoint: str, command: str, *, enabled: bool, **where: Any) -> None:
    async def call(admin: WebhookAdmin) -> int:
        click.echo(_endpoints_table([await admin.set_enabled(endpoint, enabled=enabled)]))
        return DONE

    _run(call, command, **where)


def _run(
    call: Callable[[WebhookAdmin], Awaitable[int]],
    command: str,
    *,
    url: str,
    token: str | None,
    ca_file: Path | None,
) -> None:
    from bridge.cli.terminal import report  # noqa: PLC0415 - commands import late
    from bridge.client.bridge import Bridge  # noqa: PLC0415 - commands import late
    from bridge.errors import BridgeError  # noqa: PLC0415 - commands import late

    async def main() -> int:
        try:
            async with Bridge(url, token or None, ca_file=ca_file) as bridge:
                return await call(bridge.webhooks)
        except BridgeError as error:
            return report(f"webhooks {command}", error)

    exit_with(main)


def _print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2))


def _print_secret(endpoint: WebhookEndpoint, *, as_json: bool) -> None:
    if as_json:
        _print_json(endpoint.document)
        return
    click.echo(_safe(f"id:     {endpoint.id}\nsecret: {endpoint.secret}", keep="\n"))
    click.echo("Store the secret where the receiver verifies signatures; it is not shown again.", err=True)


def _print_attempt(attempt: WebhookAttempt) -> int:
    took = "" if attempt.seconds is None else f" after {attempt.seconds:.2f} s"
    answer = f"HTTP {attempt.status}" if attempt.status else "no response"
    reason = f": {attempt.error}" if attempt.error and attempt.error != answer else ""
    click.echo(_safe(f"{attempt.delivery}: {attempt.result}, {answer}{took}{reason}"))
    return DONE if attempt.delivered else NOT_DELIVERED


def _endpoints_table(endpoints: list[WebhookEndpoint] | tuple[WebhookEndpoint, ...]) -> str:
    lines = [("ID", "STATUS", "WAITING", "EVENTS", "UPSTREAMS", "TAGS", "URL")]
    for one in endpoints:
        failing = one.document.get("failing_since")
        status = f"failing since {failing}" if failing else "enabled"
        if not one.enabled:
            status = f"disabled ({one.disabled_reason or 'unknown'})"
        waiting = str(one.document.get("waiting", "-"))
        names = (",".join(one.events), ",".join(one.upstreams) or "all", ",".join(one.tags) or "all")
        lines.append((one.id, status, waiting, *names, one.url))
    return columns([tuple(map(_safe, line)) for line in lines])


def _deliveries_table(deliveries: tuple[WebhookDelivery, ...]) -> str:
    lines = [("ID", "EVENT", "TASK", "STATUS", "ATTEMPTS", "LAST ATTEMPT", "ANSWER", "NEXT ATTEMPT")]
    for one in deliveries:
        last = one.attempts[0] if one.attempts else None
        answer = (
            "-" if last is None else f"HTTP {last.status}" if last.status else last.error or "no response"
        )
        attempts = str(len(one.attempts))
        times = (last.at or "-" if last else "-", answer[:_MAX_ERROR], one.next_attempt_at or "-")
        lines.append((one.id, one.type or "-", one.task or "-", one.state, attempts, *times))
    return columns([tuple(map(_safe, line)) for line in lines])


def _safe(text: str, *, keep: str = "") -> str:
    """Replace what a terminal would obey: receivers and callers chose parts of it."""
    return "".join(
        letter if letter.isprintable() or letter in keep else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
