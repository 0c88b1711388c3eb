"""Nobody ever sees a task that no tag, claim or ticket of theirs opens, and everybody sees what one does."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest
from hypothesis import Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bridge.app.bridge import Bridge
from tests.fakes.rights import (
    GROUPS,
    SOON,
    TAGS,
    UPSTREAMS,
    Claims,
    Task,
    Theatre,
    Viewer,
    path_of,
    settings,
    sharing,
)
from tests.fakes.virtual import LoopClock, run

SETTLED = 0.1
"""Seconds in which every bridge has heard what another one recorded."""

FINAL = frozenset({"completed", "cancelled", "failed"})
NUMBERS = st.integers(0, 5)
SOME_TAGS = st.lists(st.sampled_from(TAGS), unique=True, max_size=2).map(tuple)
SCOPES = st.sampled_from(["read submit cancel", "read submit cancel", "read", "submit", "read cancel"])
CLAIMS = st.builds(
    Claims,
    st.none()
    | st.lists(
        st.sampled_from(["img/*", "vid/*", *(f"{up}/task{n}x" for up in UPSTREAMS for n in range(4))]),
        unique=True,
        max_size=2,
    ).map(tuple),
    st.none() | SOME_TAGS,
    SCOPES,
)
VIEWERS = st.integers(0, 3)
ALIASES = st.sampled_from(["my-0", "my-1"])
STEPS = st.one_of(
    st.tuples(st.just("appear"), st.sampled_from(UPSTREAMS), st.none() | ALIASES),
    st.tuples(st.just("retag"), NUMBERS, SOME_TAGS, st.none() | st.sampled_from(GROUPS)),
    st.tuples(st.just("end"), NUMBERS),
    st.tuples(
        st.just("submit"),
        VIEWERS,
        st.sampled_from(UPSTREAMS),
        st.none() | ALIASES,
        st.booleans(),
        SOME_TAGS,
        st.none() | st.sampled_from(GROUPS),
    ),
    st.tuples(st.just("repeat"), VIEWERS, st.sampled_from(UPSTREAMS)),
    st.tuples(st.just("state"), VIEWERS, NUMBERS),
    st.tuples(st.just("proxy"), VIEWERS, NUMBERS),
    st.tuples(st.just("alias"), VIEWERS, st.sampled_from(UPSTREAMS), ALIASES, st.booleans()),
    st.tuples(st.just("cancel"), VIEWERS, NUMBERS),
    st.tuples(st.just("events"), VIEWERS, NUMBERS),
    st.tuples(st.just("many"), VIEWERS, st.lists(NUMBERS, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("inspect"), VIEWERS),
    st.tuples(st.just("follow"), VIEWERS, st.sampled_from(["tag", "group"]), NUMBERS, st.booleans()),
    st.tuples(st.just("close"), VIEWERS, st.sampled_from(GROUPS)),
    st.tuples(st.just("register"), VIEWERS, NUMBERS, SOME_TAGS, st.none() | st.sampled_from(GROUPS)),
    st.tuples(st.just("forget"), VIEWERS, NUMBERS),
    st.tuples(
        st.just("list"),
        VIEWERS,
        st.sampled_from(["", "upstream", "tag", "group"]),
        NUMBERS,
        st.integers(1, 3),
    ),
    st.tuples(
        st.just("ticket"),
        VIEWERS,
        st.lists(NUMBERS, max_size=2, unique=True),
        SOME_TAGS,
        st.lists(st.sampled_from(GROUPS), unique=True, max_size=1),
        NUMBERS,
    ),
)


class Play:
    """One run of steps."""

    def __init__(self, theatre: Theatre, claims: list[Claims]) -> None:
        self.theatre = theatre
        self.viewers = [theatre.viewer(one, f"user-{number}") for number, one in enumerate(claims)]
        self.operator = theatre.viewer(Claims(("*",)), "operator")
        self.turn = 0

    @property
    def tasks(self) -> list[Task]:
        return list(self.theatre.provider.tasks.values())

    async def step(self, name: str, *words: Any) -> None:
        self.turn += 1
        await getattr(self, f"_{name}")(*words)

    async def _call(self, viewer: Viewer, method: str, path: str, **more: Any) -> Any:
        return await self.theatre.call(viewer, method, path, bridge=self.turn, **more)

    def _task(self, number: int) -> Task | None:
        return self.tasks[number % len(self.tasks)] if self.tasks else None

    # The world

    async def _appear(self, upstream: str, alias: str | None) -> None:
        if alias is None or self.theatre.provider.find(upstream, {"out_task_id": alias}) is None:
            self.theatre.provider.new(upstream, alias)

    async def _retag(self, number: int, tags: tuple[str, ...], group: str | None) -> None:
        """The operator names a task."""
        task = self._task(number)
        if task is not None:
            await self._name(self.operator, task, tags, group)

    async def _name(self, viewer: Viewer, task: Task, tags: tuple[str, ...], group: str | None) -> None:
        allowed = "submit" in viewer.claims.scope and viewer.may_read(task)
        body = {"tags": list(tags)} | ({"group": group} if group is not None else {})
        was = task.known
        response = await self.theatre.call(viewer, "PUT", path_of(task.ref), body=body, bridge=self.turn)
        self.theatre.expect(viewer, f"PUT {task}", response.status, (200 if was else 201) if allowed else 403)
        if allowed:
            # its tags may be gone with this, and the answer was of the moment before
            self.theatre.wrong = [one for one in self.theatre.wrong if "of PUT" not in one]
            task.known, task.group = True, group
            task.tags = frozenset(tags) | frozenset(viewer.claims.tags or ())
        elif "submit" in viewer.claims.scope:
            ghost = await self.theatre.call(viewer, "PUT", path_of(f"{task.upstream}/ghost"), body=body)
            self._alike(viewer, response, ghost, task.task_id)

    async def _end(self, number: int) -> None:
        task = self._task(number)
        if task is not None and task.status == "running":
            task.status = "completed"

    # The callers

    async def _register(self, who: int, number: int, tags: tuple[str, ...], group: str | None) -> None:
        task = self._task(number)
        if task is not None:
            await self._name(self.viewers[who], task, tags, group)

    async def _forget(self, who: int, number: int) -> None:
        task, viewer = self._task(number), self.viewers[who]
        if task is None:
            return
        if viewer.may_cancel(task) and task.known and viewer.may_read(task):
            await self._call(viewer, "GET", path_of(task.ref))  # the bridge may not have seen the end yet
            await asyncio.sleep(1)
        allowed, ended = viewer.may_cancel(task), task.status in FINAL
        response = await self._call(viewer, "DELETE", path_of(task.ref))
        wanted = 403 if not allowed else 404 if not task.known else 204 if ended else 409
        if allowed and ended and task.known and response.status == 409:
            return  # nobody has polled it since its end
        self.theatre.expect(viewer, f"DELETE {task}", response.status, wanted)
        if response.status == 204:
            task.known, task.tags, task.group = False, frozenset(), None

    async def _list(self, who: int, kind: str, number: int, limit: int) -> None:
        viewer = self.viewers[who]
        names = {"": [""], "upstream": UPSTREAMS, "tag": TAGS, "group": GROUPS}[kind]
        name = names[number % len(names)]
        query = [(kind, name), ("limit", str(limit))] if kind else [("limit", str(limit))]
        found: list[str] = []
        before: str | None = None
        for _ in range(50):
            more = [("before", before)] if before is not None else []
            response = await self._call(viewer, "GET", "/v1/tasks", query=[*query, *more])
            if "read" not in viewer.claims.scope:
                self.theatre.expect(viewer, "list", response.status, 403)
                return
            document = orjson.loads(response.body)
            found += [state["task"] for state in document["tasks"]]
            before = document["next"]
            if before is None:
                break
        wanted = {
            task.ref
            for task in self.tasks
            if task.known
            and viewer.may_read(task)
            and (kind != "upstream" or task.upstream == name)
            and (kind != "tag" or name in task.tags)
            and (kind != "group" or name == task.group)
        }
        self.theatre.expect(viewer, f"list {query}", (len(found), set(found)), (len(wanted), wanted))

    async def _submit(
        self,
        who: int,
        upstream: str,
        alias: str | None,
        by_proxy: bool,
        tags: tuple[str, ...],
        group: str | None,
    ) -> None:
        viewer, provider = self.viewers[who], self.theatre.provider
        old = provider.find(upstream, {"out_task_id": alias}) if alias is not None else None
        body = {"model": "m"} | ({"out_task_id": alias} if alias is not None else {})
        path = f"/proxy/{upstream}/v1/tasks/submit" if by_proxy else f"/v1/tasks/{upstream}"
        allowed = viewer.may_submit(upstream)
        number = len(self.tasks)
        may_have = old is None or not old.known or viewer._covers(old)
        headers = {"x-task-tags": " ".join(tags)} if tags else {}
        headers |= {"x-task-group": group} if group is not None else {}
        response = await self._submitted(viewer, path, body, headers, allowed=allowed and may_have)
        wanted = (200 if by_proxy else 201) if allowed and may_have else 409 if allowed else 403
        self.theatre.expect(viewer, f"submit {path} {body}", response.status, wanted)
        if allowed and may_have:
            self._adopt(viewer, old or self.tasks[number], tags, group)

    async def _submitted(
        self, viewer: Viewer, path: str, body: Any, headers: dict[str, str], *, allowed: bool
    ) -> Any:
        response = await self.theatre.call(viewer, "POST", path, body=body, headers=headers, bridge=self.turn)
        if allowed and response.status < 300:
            # its own answer is for whoever submits, also without the scope `read`
            self.theatre.wrong = [one for one in self.theatre.wrong if f"of POST {path}" not in one]
        return response

    def _adopt(
        self, viewer: Viewer, task: Task, tags: tuple[str, ...] = (), group: str | None = None
    ) -> None:
        task.known = True
        task.tags = task.tags | frozenset(viewer.claims.tags or ()) | frozenset(tags)
        task.group = task.group if group is None else group

    async def _repeat(self, who: int, upstream: str) -> None:
        """A submit with a key that every caller uses, under one subject."""
        claims = self.viewers[who].claims
        viewer = self.theatre.viewer(claims, "one subject")
        number = len(self.tasks)
        path = f"/v1/tasks/{upstream}"
        allowed = viewer.may_submit(upstream)
        response = await self.theatre.call(
            viewer, "POST", path, body={"model": "m"}, headers={"idempotency-key": f"k-{upstream}"}
        )
        if not allowed:
            self.theatre.expect(viewer, "repeat", response.status, 403)
            return
        created = self.tasks[number:]
        for task in created:
            self._adopt(viewer, task)
        seen = re.findall(rb"task[0-9]+x", response.body)
        for task in (self.theatre.provider.tasks[one.decode()] for one in set(seen)):
            if not viewer._covers(task):
                self.theatre.wrong.append(f"{viewer} was answered {task}")
        self.theatre.wrong = [one for one in self.theatre.wrong if f"of POST {path}" not in one]

    async def _state(self, who: int, number: int) -> None:
        await self._read(self.viewers[who], number, "GET", path_of)

    async def _proxy(self, who: int, number: int) -> None:
        task = self._task(number)
        if task is None:
            return
        viewer, body = self.viewers[who], {"task_id": task.task_id}
        path = f"/proxy/{task.upstream}/v1/tasks/query"
        before = viewer.may_read(task)
        response = await self._call(viewer, "POST", path, body=body)
        self.theatre.expect(viewer, f"proxy {task}", response.status, 200 if before else 403)
        if before:
            task.known = True
        else:
            ghost = await self._call(viewer, "POST", path, body={"task_id": "ghost"})
            self._alike(viewer, response, ghost, task.task_id)

    async def _read(self, viewer: Viewer, number: int, method: str, path: Any) -> None:
        task = self._task(number)
        if task is None:
            return
        before = viewer.may_read(task)
        response = await self._call(viewer, method, path(task.ref))
        self.theatre.expect(viewer, f"{method} {task}", response.status, 200 if before else 403)
        if before:
            task.known = True
        else:
            ghost = await self._call(viewer, method, path(f"{task.upstream}/ghost"))
            self._alike(viewer, response, ghost, task.task_id)

    def _alike(self, viewer: Viewer, response: Any, ghost: Any, task_id: str) -> None:
        """A task that is not the caller's is answered as one that does not exist."""
        said, other = (one.body.replace(task_id.encode(), b"ghost") for one in (response, ghost))
        request_id = re.compile(rb'"request_id":"[^"]*"')
        same = (response.status, request_id.sub(b"", said)) == (ghost.status, request_id.sub(b"", other))
        self.theatre.expect(viewer, f"{response.body!r} beside {ghost.body!r}", same, wanted=True)

    async def _alias(self, who: int, upstream: str, alias: str, by_proxy: bool) -> None:
        viewer = self.viewers[who]
        task = self.theatre.provider.find(upstream, {"out_task_id": alias})
        if by_proxy:
            body = {"out_task_id": alias}
            response = await self._call(viewer, "POST", f"/proxy/{upstream}/v1/tasks/query", body=body)
        else:
            response = await self._call(viewer, "GET", f"/v1/aliases/{upstream}/{alias}")
        if task is not None and viewer.may_read(task):
            self.theatre.expect(viewer, f"alias {task}", response.status, 200)
            task.known = True
        else:
            tasks, tags = viewer.claims.tasks or (), viewer.claims.tags or ()
            all_of_it = f"{upstream}/*" in tasks
            # who reads by tags, or everything, learns that there is none for them
            missing = "read" in viewer.claims.scope and (all_of_it or bool(tags))
            self.theatre.expect(viewer, f"no alias {alias}", response.status, 404 if missing else 403)

    async def _cancel(self, who: int, number: int) -> None:
        task, viewer = self._task(number), self.viewers[who]
        if task is None:
            return
        allowed, was = viewer.may_cancel(task), task.status
        response = await self.theatre.call(viewer, "POST", f"{path_of(task.ref)}/cancel", bridge=self.turn)
        self.theatre.expect(viewer, f"cancel {task}", response.status, 200 if allowed else 403)
        if allowed:
            task.known = True
            self.theatre.wrong = [one for one in self.theatre.wrong if "/cancel" not in one]
        else:
            self.theatre.expect(viewer, f"{task} cancelled", task.status, was)

    async def _events(self, who: int, number: int) -> None:
        task, viewer = self._task(number), self.viewers[who]
        if task is None:
            return
        await self._follow_tasks(viewer, [task], f"{path_of(task.ref)}/events", [])

    async def _many(self, who: int, numbers: list[int]) -> None:
        tasks = list({one.ref: one for one in (self._task(n) for n in numbers) if one is not None}.values())
        if tasks:
            await self._follow_tasks(
                self.viewers[who], tasks, "/v1/events", [("task", one.ref) for one in tasks]
            )

    async def _follow_tasks(
        self, viewer: Viewer, tasks: list[Task], path: str, query: list[tuple[str, str]]
    ) -> None:
        allowed = all(viewer.may_read(task) for task in tasks)
        response = await self._call(viewer, "GET", path, query=query, seconds=SOON)
        self.theatre.expect(viewer, f"events of {tasks}", response.status, 200 if allowed else 403)
        if allowed:
            for task in tasks:
                task.known = True
            seen = {found.decode() for found in re.findall(rb'"task":"[a-z]+/(task[0-9]+x)"', response.body)}
            self.theatre.expect(viewer, f"states of {path}", seen, {task.task_id for task in tasks})

    async def _follow_names(self, viewer: Viewer, kind: str, name: str, *, allowed: bool) -> None:
        query = [(kind, name)]
        response = await self._call(viewer, "GET", "/v1/events", query=query, seconds=SOON)
        if not allowed:
            self.theatre.expect(viewer, f"events of {query}", response.status, 403)
            return
        self.theatre.expect(viewer, f"events of {query}", response.status in {200, 204}, wanted=True)
        if response.status == 200:
            seen = set(re.findall(rb'"task":"([a-z]+/task[0-9]+x)"', response.body))
            wanted = {
                task.ref.encode()
                for task in self.tasks
                if task.known
                and viewer.may_read(task)
                and (name in task.tags if kind == "tag" else name == task.group)
            }
            self.theatre.expect(viewer, f"events of {query}", seen, wanted)

    async def _follow(self, who: int, kind: str, number: int, by_ticket: bool) -> None:
        viewer, names = self.viewers[who], TAGS if kind == "tag" else GROUPS
        name, other = names[number % len(names)], names[(number + 1) % len(names)]
        reads = "read" in viewer.claims.scope
        if not by_ticket:
            await self._follow_names(viewer, kind, name, allowed=reads)
            return
        named = {f"{kind}s": [name]}
        response = await self._call(viewer, "POST", "/v1/tickets", body=named)
        self.theatre.expect(viewer, f"ticket {named}", response.status, 201 if reads else 403)
        if reads:
            of_name = frozenset({name})
            tags, groups = (of_name, frozenset[str]()) if kind == "tag" else (frozenset[str](), of_name)
            text = orjson.loads(response.body)["ticket"]
            ticket = Viewer(viewer.claims, text, frozenset(), tags, groups)
            await self._follow_names(ticket, kind, name, allowed=True)
            await self._follow_names(ticket, kind, other, allowed=False)

    async def _close(self, who: int, group: str) -> None:
        """A group that no task is in can be closed by unrestricted callers only."""
        viewer = self.viewers[who]
        tasks = [task for task in self.tasks if task.known and task.group == group]
        if viewer.claims.tasks is None or tasks or viewer.claims.tags:
            response = await self._call(viewer, "POST", f"/v1/groups/{group}-never-used/close")
            self.theatre.expect(viewer, "close an empty group", response.status, 403)

    async def _inspect(self, who: int) -> None:
        viewer = self.viewers[who]
        response = await self._call(viewer, "GET", "/inspector/tasks")
        self.theatre.expect(
            viewer, "inspector", response.status, 200 if "read" in viewer.claims.scope else 403
        )

    async def _ticket(
        self,
        who: int,
        numbers: list[int],
        tags: tuple[str, ...],
        groups: list[str],
        other: int,
    ) -> None:
        viewer = self.viewers[who]
        tasks = list({one.ref: one for one in (self._task(n) for n in numbers) if one is not None}.values())
        if not tasks and not tags and not groups:
            return
        names = {"tasks": [one.ref for one in tasks], "tags": list(tags), "groups": groups}
        body = {name: words for name, words in names.items() if words}
        allowed = "read" in viewer.claims.scope and all(viewer.may_read(task) for task in tasks)
        response = await self._call(viewer, "POST", "/v1/tickets", body=body)
        self.theatre.expect(viewer, f"ticket {body}", response.status, 201 if allowed else 403)
        if not allowed:
            return
        text = orjson.loads(response.body)["ticket"]
        refs = frozenset(one.ref for one in tasks)
        ticket = Viewer(viewer.claims, text, refs, frozenset(tags), frozenset(groups))
        task = self._task(other)
        if task is None:
            return
        await self._follow_tasks(ticket, [task], f"{path_of(task.ref)}/events", [])
        await self._retag(other, tags[:1], None)  # and after its names have changed
        await self._follow_tasks(ticket, [task], f"{path_of(task.ref)}/events", [])
        plain = await self.theatre.call(ticket, "GET", path_of(task.ref))
        self.theatre.expect(ticket, "a ticket on another route", plain.status, 401)


def play(claims: list[Claims], steps: list[tuple[Any, ...]], *, bridges: int = 1) -> list[str]:
    """One run on one bridge with its journal in memory, or on several; everything that was wrong."""

    async def playing(clock: LoopClock) -> list[str]:
        theatre = Theatre(clock)
        if bridges == 1:
            await theatre.start(Bridge(settings(), clock=clock))  # type: ignore[arg-type]
        else:
            await theatre.start(*sharing(clock, bridges))
            await asyncio.sleep(1)
        try:
            acting = Play(theatre, claims)
            for step in steps:
                await acting.step(*step)
                await asyncio.sleep(SETTLED if bridges > 1 else 0)
        finally:
            await theatre.stop()
        return theatre.wrong

    return list(run(playing))


@pytest.mark.extended
@given(st.lists(CLAIMS, min_size=4, max_size=4), st.lists(STEPS, min_size=5, max_size=30))
@hypothesis_settings(max_examples=300, deadline=None, phases=[Phase.generate])
def test_nobody_sees_what_nothing_opens_to_them_at_length(claims: list[Claims], steps: list[Any]) -> None:
    assert play(claims, steps) == []


@given(st.lists(CLAIMS, min_size=4, max_size=4), st.lists(STEPS, min_size=5, max_size=20))
@hypothesis_settings(max_examples=25, deadline=None, phases=[Phase.generate])
def test_nobody_sees_what_nothing_opens_to_them(claims: list[Claims], steps: list[Any]) -> None:
    assert play(claims, steps) == []


@pytest.mark.extended
@given(st.lists(CLAIMS, min_size=4, max_size=4), st.lists(STEPS, min_size=5, max_size=30))
@hypothesis_settings(max_examples=150, deadline=None, phases=[Phase.generate])
def test_nor_over_three_bridges(claims: list[Claims], steps: list[Any]) -> None:
    assert play(claims, steps, bridges=3) == []
