"""Judges what receivers got: signed, one id for each content, in order per task, every end at least once."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, pairwise
from typing import Any

from tests.webhooks.receiver import Request

TYPES = frozenset({"task.final", "task.status", "task.state", "task.stored", "webhook.test"})
FINAL = frozenset({"completed", "failed", "cancelled", "lost"})
RANK = {"queued": 0, "unknown": 0, "processing": 1, "input_required": 1}
TIMES = frozenset(
    {"changed_at", "observed_at", "cursor", "eta_seconds", "eta_at", "eta_by", "source", "stored_url"}
)
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def verdict(
    requests: Iterable[Request], *, ended: Collection[str] = (), counts_target: bool = True
) -> list[str]:
    """What is wrong with all that came, over all endpoints.

    Args:
        ended: Tasks whose end must have arrived at each endpoint, that is at each target seen.
    """
    faults: list[str] = []
    endpoints: dict[str, list[Request]] = defaultdict(list)
    for one in requests:
        wrong = malformed(one)
        if wrong:
            faults.append(f"{one.id or '(no id)'}: {wrong}")
            continue
        endpoints[one.target].append(one)
    owner: dict[str, str] = {}
    for target, came in endpoints.items():
        faults += _of_endpoint(target, came, ended)
        for one in came:
            if owner.setdefault(one.id, target) != target:
                faults.append(f"{one.id}: at two endpoints")
    if ended and not endpoints:
        faults.append("nothing came at all")
    return faults


def malformed(request: Request) -> str:
    """What is wrong with one request by itself; empty for nothing."""
    return next(chain(_wrong_headers(request), _wrong_body(request)), "")


def _wrong_headers(request: Request) -> Iterator[str]:
    if request.method != "POST":
        yield f"method {request.method}"
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", request.id):
        yield f"webhook-id {request.id!r}"
    if not (request.header("webhook-timestamp") or "").isdigit():
        yield f"webhook-timestamp {request.header('webhook-timestamp')!r}"
    if not (request.header("content-type") or "").startswith("application/json"):
        yield f"content type {request.header('content-type')!r}"
    if not request.verified:
        yield f"not verified: {request.why}"


def _wrong_body(request: Request) -> Iterator[str]:
    try:
        document: dict[str, Any] = json.loads(request.body)
        kind, moment, data = document["type"], document["timestamp"], document["data"]
    except (ValueError, KeyError, TypeError) as error:
        yield f"body {request.body[:200]!r}: {error!r}"
        return
    if kind not in TYPES:
        yield f"type {kind!r}"
    if not MOMENT.fullmatch(moment):
        yield f"timestamp {moment!r}"
    if kind == "webhook.test":
        return
    if not isinstance(data, dict) or not {"task", "status", "cursor"} <= data.keys():
        yield f"data {data!r}"
    if "~" in data["cursor"]:
        yield f"a state that is not recorded left: {data['cursor']}"
    if kind == "task.final" and data["status"] not in FINAL:
        yield f"task.final with {data['status']}"


def content(request: Request) -> str:
    """What an id stands for, without times; of an open state with the moment it changed."""
    document, data = request.document, request.data
    left_out = TIMES - ({"changed_at"} if data.get("status") not in FINAL else frozenset())
    kept = {name: value for name, value in data.items() if name not in left_out}
    return json.dumps([document["type"], kept], sort_keys=True)


def _of_endpoint(target: str, came: list[Request], ended: Collection[str]) -> list[str]:
    faults: list[str] = []
    bodies: dict[str, bytes] = {}
    id_of: dict[str, str] = {}
    tasks: dict[str, list[Request]] = defaultdict(list)
    for one in came:
        if one.document["type"] == "webhook.test":
            continue
        if bodies.setdefault(one.id, one.body) != one.body:
            before, now = json.loads(bodies[one.id]), one.document
            if content(one) != json.dumps([before["type"], _without(before["data"])], sort_keys=True):
                faults.append(f"{target} {one.id}: another content: {before} then {now}")
        first = id_of.setdefault(content(one), one.id)
        if first != one.id:
            faults.append(f"{target} {one.data['task']}: one content as {first} and {one.id}: {one.body!r}")
        tasks[one.data["task"]].append(one)
    for task, about in tasks.items():
        faults += [f"{target} {task}: {fault}" for fault in out_of_order(about)]
    for task in ended:
        finals = [one for one in tasks.get(task, []) if one.data["status"] in FINAL]
        if not any(one.arrived for one in finals):
            faults.append(f"{target} {task}: its end did not arrive ({len(finals)} attempts)")
    return faults


def _without(data: dict[str, Any]) -> dict[str, Any]:
    left_out = TIMES - ({"changed_at"} if data.get("status") not in FINAL else frozenset())
    return {name: value for name, value in data.items() if name not in left_out}


def out_of_order(about: list[Request]) -> Iterable[str]:
    """What came about one task at one endpoint, in another order than it happened or at the same time."""
    known: dict[str, Request] = {}
    newest: Request | None = None
    for one in about:
        if one.id not in known:
            known[one.id] = one
            if newest is not None:
                if _place(one) < _place(newest) and newest.data["status"] != "lost":
                    yield f"{_place(one)} first came after {_place(newest)}"
                if newest.data["status"] in FINAL - {"lost"}:
                    yield f"{one.data['status']} came after {newest.data['status']}"
            newest = one
        elif newest is not None and one.id != newest.id and newest.arrived:
            yield f"{_place(one)} was sent again after {_place(newest)} had arrived"
    for before, after in pairwise(about):
        if before.id != after.id and (before.over_at is None or before.over_at > after.at):
            yield f"{_place(after)} was sent while {_place(before)} was in flight"


def _place(request: Request) -> tuple[int, float]:
    data = request.data
    return RANK.get(data["status"], 2), data.get("progress") or 0.0
