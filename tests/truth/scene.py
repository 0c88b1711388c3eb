"""A bridge in this process, all providers with their troubles, and all viewers; then the verdict."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from bridge.app.bridge import Bridge
from bridge.config.settings import Settings
from bridge.core.task import TaskKey
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.registry import load_preset
from bridge.simulator.lifecycle import Lifecycle, Stage
from bridge.simulator.recorded.preset import load_preset as recorded
from bridge.simulator.recorded.preset import recorded_names
from bridge.simulator.recorded.style import RecordedStyle
from tests.chaos.judge import Judge
from tests.fakes.virtual import START, WALL, LoopClock
from tests.truth.asgi import Response
from tests.truth.plans import (
    ABOUT_RATE,
    ABOUT_TASK,
    ABOUT_WAY,
    LENIENT,
    ORIGIN,
    RESULT,
    STREAM,
    Plan,
    Trouble,
    make_task,
    some_life,
    trouble_at,
)
from tests.truth.provider import Provider
from tests.truth.viewers import Viewer, make_viewer

KEY = "test:key"
SECRET = "callback-secret-of-sixteen"
HORIZON = 2500.0
ONE_BACKOFF = 300.0
PAUSES = 75.0
"""What a circuit breaker, a rate limit or a rejected key may add for every task of a provider."""

KEY_REST = 32.0
AWAY = 65.0
"""How long a viewer that leaves may be away."""

RESULT_GIVEN_UP = 600.0 + 75.0
VENDORS = {
    "vapi": ["kling-submitted", "kling-processing", "kling-succeed-video", "kling-failed"],
}


@dataclass
class Scene:
    """Everything that is random is drawn from the seed.

    Args:
        each: Tasks of each preset.
        presets: Names; all of them by default.
    """

    clock: LoopClock
    seed: int
    each: int
    presets: list[str] = field(default_factory=recorded_names)
    plans: list[Plan] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)
    latecomers: dict[Viewer, float] = field(default_factory=dict)
    providers: dict[str, Provider] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    paces: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.judge = Judge()
        random.seed(self.seed)  # the jitter of the limiters

    async def play(self) -> list[str]:
        """Run to the end; everything that was wrong."""
        upstreams = {
            name: {
                "base_url": f"{ORIGIN}/{name}",
                "preset": name,
                "api_key": KEY,
                "callback_secret": SECRET,
                "requests_per_second": None,
            }
            for name in self.presets
        }
        settings = Settings.model_validate(
            {"journal": "memory", "upstreams": upstreams, "linger_seconds": 30}
        )
        bridge = Bridge(settings, clock=self.clock)
        async with bridge.running():
            await self._prepare(bridge)
            for name in self.presets:
                self._plan(name)
            self._cast(bridge)
            await self._perform(bridge)
            await self._audit(bridge)
        return self.verdict()

    async def _prepare(self, bridge: Bridge) -> None:
        parts: Any = bridge._parts
        parts.pool._random = parts.subscriptions.random = random.Random(self.seed + 1).random
        for name, upstream in parts.pool.upstreams.items():
            await upstream.session.close()
            provider = Provider(RecordedStyle(recorded(name), self.seed), self.clock)
            upstream.session = self.providers[name] = provider
            self.paces[name] = upstream.pace.max_seconds

    def _plan(self, name: str) -> None:
        """Half of the providers have trouble with single tasks only, the others as a whole."""
        provider, chance = self.providers[name], self.chance
        wide = chance.random() < 0.4
        if wide:
            begins = START + chance.uniform(20, 200)
            kind = chance.choice(("401", "429", "429-after", "503", "refused", "timeout", "500", "html"))
            provider.climate = [Trouble(kind, begins, begins + chance.uniform(10, 120))]
        sick = [ABOUT_TASK, ABOUT_WAY, ABOUT_RATE] if wide else [ABOUT_TASK, ABOUT_TASK, ABOUT_WAY]
        for number in range(1, self.each + 1):
            plan = self._one(name, number)
            kinds = chance.choice(sick)
            if chance.random() < 0.45 and plan.exists:
                plan.troubles = [trouble_at(chance, plan, kinds) for _ in range(chance.choice([1, 1, 2]))]
                # Not seen yet because of other trouble, a task is missing after two 404s.
                first = next((one for one in plan.troubles if one.kind == "404"), None)
                plan.troubles = plan.troubles if first is None else [first]
                vouched = plan.submitted or plan.called_back is not None
                if first is not None and wide and not vouched:
                    plan.troubles = []
                # Where the dialect says what an HTTP status means, it is the provider's word, not trouble.
                named = {str(code) for code in load_preset(name).rules.answers.http}
                plan.troubles = [
                    one for one in plan.troubles if one.kind not in named & {"400", "402", "403"}
                ]
                if not provider.style.preset.status_paths:
                    plan.troubles = [one for one in plan.troubles if one.kind != "word"]
            if plan.followed and plan.final_status == "completed" and chance.random() < 0.6:
                self._trouble_result(plan)
            provider.add(plan)
            self.plans.append(plan)

    def _one(self, name: str, number: int) -> Plan:
        chance, style = self.chance, self.providers[name].style
        born = START + 5 + chance.uniform(0, 150)
        stages = style.preset.stages
        life = some_life(
            chance,
            cancels=Stage.CANCELLED in stages and stages[Stage.CANCELLED].expect.get("status") == "cancelled",
        )
        shape = {"recording": VENDORS[name]} if name in VENDORS and number % 2 else {}
        if name in VENDORS and not shape:
            life = Lifecycle(queue_seconds=0, run_seconds=life.run_seconds, outcome=life.outcome)
        wall = WALL + born - START
        task = make_task(style, number, wall=wall, life=life, shape=shape)
        submission = Submission(body=b"{}", options=style.preset.submitted.options)
        dialect = load_preset(name)
        reply = style.submitted(task, task.view(wall))
        answer = HttpResponse(reply.status, {"content-type": reply.content_type}, reply.body, ORIGIN, None)
        ref = f"{name}/{dialect.read_submitted(answer, submission).task_id}"
        plan = Plan(ref, name, task, style.preset, born)
        draw = chance.random()
        if draw < 0.06:
            plan.exists = False
        elif draw < 0.3:
            plan.submitted = True
        elif draw < 0.4:
            plan.called_back = born - chance.uniform(0.2, 1)
        if chance.random() < 0.3:
            plan.lenient = chance.choice(LENIENT)
        if chance.random() < 0.1:
            plan.hint = chance.choice([1.0, 8.0, 25.0])
        if style.preset.frames and chance.random() < 0.7:
            plan.stream = chance.choice(STREAM)
        return plan

    def _trouble_result(self, plan: Plan) -> None:
        chance = self.chance
        kind = chance.choice(RESULT)
        begins, passes = plan.ends, chance.random() < 0.7
        seconds = {"404": 25.0, "403": 8.0, "empty-link": 8.0, "html": 8.0, "not-ready": 150.0, "202": 100.0}
        lasts = chance.uniform(1, seconds.get(kind, 200.0))
        if kind in {"not-ready", "202"}:
            passes = True
        plan.never = not passes
        plan.result = [Trouble(kind, begins, begins + lasts if passes else float("inf"))]

    def _cast(self, bridge: Bridge) -> None:
        """About three viewers for two tasks, on every delivery."""
        chance = self.chance
        for plan in self.plans:
            for _ in range(chance.choice([1, 1, 2])):
                kind = chance.choice(("sse", "sse", "socket", "longpoll", "ndjson"))
                self._viewer(bridge, kind, [plan.ref])
        for plan in self.plans:
            # Somebody has seen the trouble grow, and somebody else comes when it is over.
            longest = max((one.ends - one.begins for one in plan.troubles), default=0.0)
            if plan.exists and plan.only_its_own and longest > 60 and not plan.never:
                self._viewer(bridge, "sse", [plan.ref])
                self.latecomers[self.viewers[-1]] = max(plan.calm_from, plan.ends) + chance.uniform(1, 9)
        for _ in range(len(self.plans) // 8):
            some = chance.sample(self.plans, min(chance.randint(2, 9), len(self.plans)))
            self._viewer(bridge, chance.choice(("many", "socket")), [plan.ref for plan in some])

    def _viewer(self, bridge: Bridge, kind: str, refs: list[str]) -> None:
        number = len(self.viewers)
        chance = random.Random(f"{self.seed}/{number}")
        self.viewers.append(make_viewer(self.judge, kind, refs, bridge, self.clock, chance, number))

    async def _perform(self, bridge: Bridge) -> None:
        born = {plan.ref: plan for plan in self.plans}
        running = []
        first = dict.fromkeys(self.plans)
        for viewer in self.viewers:
            earliest = max(born[ref].born for ref in viewer.refs)
            # At once, in the middle, or after the end.
            lag = self.chance.choice([0.05, 0.05, self.chance.uniform(0, 100), self.chance.uniform(100, 300)])
            plan = born[viewer.refs[0]]
            if viewer in self.latecomers:
                lag = self.latecomers[viewer] - earliest
            elif plan in first and any(one.kind == "404" for one in plan.troubles):
                # Only what was seen is not missing after two 404s.
                del first[plan]
                lag = 0.05
            running.append(asyncio.ensure_future(self._join(viewer, earliest + lag)))
        running += [
            asyncio.ensure_future(self._submit(bridge, plan)) for plan in self.plans if plan.submitted
        ]
        running += [
            asyncio.ensure_future(self._call_back(bridge, plan))
            for plan in self.plans
            if plan.called_back is not None
        ]
        _, late = await asyncio.wait(running, timeout=HORIZON)
        for one in late:
            one.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                self.faults.append(f"an exception: {result!r}")
        self.counts["late"] = len(late)

    async def _join(self, viewer: Viewer, at: float) -> None:
        await asyncio.sleep(max(at - self.clock.monotonic(), 0))
        await viewer.run()

    async def _submit(self, bridge: Bridge, plan: Plan) -> None:
        await asyncio.sleep(max(plan.born - self.clock.monotonic(), 0))
        query = urlencode(list(plan.preset.submitted.options.items()))
        body = orjson.dumps({"judged": plan.task.id, "prompt": "a cat"})
        response = Response()
        await response.run(
            bridge,
            "POST",
            f"/v1/tasks/{plan.name}",
            {"content-type": "application/json"},
            query=query,
            body=body,
        )
        self.counts[f"submit {response.status}"] += 1
        if response.status != 201:
            # Held up, and nothing was sent: nobody vouches for the task.
            plan.troubles = [one for one in plan.troubles if one.kind != "404"]
        else:
            task = orjson.loads(response.body)["state"]["task"]
            if task != plan.ref:
                self.faults.append(f"{plan.ref}: the submit says {task}")

    async def _call_back(self, bridge: Bridge, plan: Plan) -> None:
        assert plan.called_back is not None
        await asyncio.sleep(max(plan.called_back - self.clock.monotonic(), 0))
        body = self.providers[plan.name].style.answer(plan.task, plan.task.view(plan.task.created_at)).body
        named = load_preset(plan.name).read_callback(body).task_id
        signed = load_preset(plan.name).callback_signature is not None
        if signed or named != plan.ref.partition("/")[2]:
            assert bridge._parts is not None
            bridge._parts.pool.called_back(_key(plan.ref))
            self.counts["callback by hand"] += 1
            return
        response = Response()
        await response.run(bridge, "POST", f"/v1/callbacks/{plan.name}/{SECRET}", {}, body=body)
        self.counts[f"callback {response.status}"] += 1

    async def _audit(self, bridge: Bridge) -> None:
        """Whoever asks in the end is told the truth."""
        for plan in self.plans:
            response = Response()
            upstream, _, task_id = plan.ref.partition("/")
            await response.run(bridge, "GET", f"/v1/tasks/{upstream}/{quote(task_id, safe='')}", {})
            if not plan.exists:
                if response.status != 404:
                    self.faults.append(f"{plan.ref}: no such task, but HTTP {response.status}")
                continue
            if response.status != 200:
                self.faults.append(f"{plan.ref}: {self.describe(plan)}: in the end HTTP {response.status}")
                continue
            self._check_final(plan, orjson.loads(response.body), "in the end")

    def _check_final(self, plan: Plan, document: Any, who: str) -> None:
        links = [one["url"] for one in document["outputs"] if one.get("url")]
        wrong = None
        if document["status"] != plan.final_status:
            wrong = f"{document['status']} ({document['error']}), not {plan.final_status}"
        elif len(links) != plan.links and document["status"] == "completed":
            wrong = f"{links}, not {plan.links} links"
        elif not all(plan.file in link or plan.task.id.rpartition("/")[2] in link for link in links):
            wrong = f"links of another task: {links}"
        if wrong is not None:
            self.faults.append(f"{plan.ref}: {who}: {wrong}; {self.describe(plan)}")

    # The verdict

    def verdict(self) -> list[str]:
        """Everything that was wrong."""
        plans = {plan.ref: plan for plan in self.plans}
        found = [*self.faults, *self.judge.faults]
        for viewer in self.viewers:
            name = viewer.account.name
            found += [
                f"{name}: {one} ({viewer.refs[0]}; {self.describe(plans[viewer.refs[0]])})"
                for one in viewer.complaints
            ]
            for ref in viewer.refs:
                found += self._judge_one(viewer, plans[ref])
        return found

    def _judge_one(self, viewer: Viewer, plan: Plan) -> list[str]:
        who = f"{viewer.account.name}: {plan.ref}"
        ref = plan.ref
        if not plan.exists:
            told = viewer.missing.get(ref)
            if told is None:
                return [f"{who}: no such task, and it was never told"]
            late = told - viewer.joined
            allowed = 5.0 if not self.providers[plan.name].climate else ONE_BACKOFF
            allowed += self._key_rest(plan) + (AWAY if viewer.leaves else 0)
            return [f"{who}: no such task: told after {late:.1f} s"] if late > allowed else []
        if ref in viewer.missing:
            return [f"{who}: was told that there is no such task; {self.describe(plan)}"]
        told = viewer.told.get(ref)
        if told is None:
            known = viewer.account.known.get(ref)
            return [f"{who}: never told the end, holds {known}; {self.describe(plan)}"]
        before = len(self.faults)
        self._check_final(plan, viewer.finals[ref], who)
        found = self.faults[before:]
        del self.faults[before:]
        unsaid = (
            viewer.kind != "longpoll"
            and viewer.joined < plan.ends
            and "result_unavailable" not in viewer.heard.get(ref, ())
        )
        if plan.never and plan.final_status == "completed" and unsaid:
            found.append(f"{who}: no notice `result_unavailable`; {self.describe(plan)}")
        deadline = self._deadline(viewer, plan)
        if told > deadline:
            found.append(
                f"{who}: told {told - max(plan.ends, viewer.joined):.1f} s after it could be, "
                f"{told - deadline:.1f} s too late; joined {viewer.joined - plan.born:.0f}; "
                f"{self.describe(plan)}"
            )
        return found

    def _deadline(self, viewer: Viewer, plan: Plan) -> float:
        """When a viewer must hold the end at the latest."""
        climate = self.providers[plan.name].climate
        gap = (AWAY if viewer.leaves else 3.0) + self._key_rest(plan)
        interval = 3 * max(self.paces[plan.name], plan.hint or 0.0) + 2 + gap
        visible = max(plan.ends, viewer.joined)
        if plan.never:
            visible += RESULT_GIVEN_UP
        calm = max([plan.calm_from if not plan.never else 0.0, *(one.ends for one in climate)])
        rated = bool(climate) or any(one.kind in ABOUT_RATE for one in plan.troubles)
        if plan.troubles or plan.result or rated:
            if viewer.joined >= calm and plan.only_its_own and not rated and not plan.never:
                return visible + 10 + interval  # a new viewer cuts the back-off short
            return max(visible, calm) + ONE_BACKOFF + interval + (PAUSES if rated else 0)
        return visible + interval

    def _key_rest(self, plan: Plan) -> float:
        """Two tasks that meet 402 or 403, nothing good in between: then it is the key, until a probe."""
        denied = sum(
            any(one.kind in {"402", "403"} for one in other.troubles)
            for other in self.plans
            if other.name == plan.name
        )
        return KEY_REST * (denied // 2)

    def describe(self, plan: Plan) -> str:
        """A plan in one line."""
        troubles = ", ".join(
            f"{one.kind} {one.begins - plan.born:.0f}-{one.ends - plan.born:.0f}" for one in plan.troubles
        )
        result = ", ".join(
            f"{one.kind} {one.begins - plan.born:.0f}-{one.ends - plan.born:.0f}" for one in plan.result
        )
        climate = ", ".join(
            f"{one.kind} {one.begins - plan.born:.0f}-{one.ends - plan.born:.0f}"
            for one in self.providers[plan.name].climate
        )
        return (
            f"ends at {plan.ends - plan.born:.0f} {plan.outcome.value} lenient={plan.lenient}"
            f" hint={plan.hint} submitted={plan.submitted} called_back={plan.called_back is not None}"
            f" stream={plan.stream} asked={plan.asked} troubles=[{troubles}] result=[{result}]"
            f" climate=[{climate}]"
        )


def _key(ref: str) -> Any:
    upstream, _, task_id = ref.partition("/")
    return TaskKey(upstream, task_id)
