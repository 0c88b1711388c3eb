"""Names the bad manners a provider can show and decides which of them strike a call."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

CALLS = frozenset({"submit", "status", "sync", "cancel", "stream", "file"})

# Refusals: the provider's own error envelope with this HTTP status, code and sentence.
REFUSALS: dict[str, tuple[int, str, str]] = {
    "500": (500, "internal_error", "Internal server error"),
    "503": (503, "no_capacity", "No capacity available, try again later"),
    "429": (429, "rate_limited", "Too many requests"),
    "429-retry-after": (429, "rate_limited", "Too many requests"),
    "401": (401, "invalid_api_key", "Invalid API key"),
    "402": (402, "insufficient_balance", "Insufficient balance"),
    "451": (451, "blocked_by_safety", "Blocked by the safety system"),
}
GONE = frozenset({"vanish", "never"})
DISTORTIONS = frozenset({"unknown-word", "regress", "flap"})
REPLACEMENTS = frozenset(
    {"timeout", "html", "truncated", "huge", "redirect", "wrong-type", "envelope-error", "reset", "slow-body"}
)
NAMES = frozenset({"slow", "refuse-stream"}) | GONE | DISTORTIONS | REPLACEMENTS | set(REFUSALS)

# `name:number` on the command line sets this field.
SHORT_FIELD = {
    "slow": "seconds",
    "slow-body": "seconds",
    "429-retry-after": "retry_after",
    "huge": "size",
    "refuse-stream": "status",
}


class BadFault(ValueError):
    """The fault is not one we know, or has a parameter which makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault with its parameters; those that a fault does not use are ignored.

    Args:
        seconds: for `slow` the delay, for `slow-body` the time between bytes.
        times: how often it strikes a task; without it, always.
        after: how many good calls of a task come first.
        rate: the share of calls it strikes, instead of the simulator's own.
        calls: which calls it strikes; `status` unless said otherwise.
    """

    name: str
    seconds: float | None = None
    times: int | None = None
    after: int | None = None
    rate: float | None = None
    calls: frozenset[str] = frozenset({"status"})
    retry_after: str = "1"
    location: str = "/_sim/elsewhere"
    size: int = 50 * 1024 * 1024
    status: int = 503
    word: str = "transmogrifying"

    @property
    def ends(self) -> bool:
        """Whether nothing else can happen to a call that it strikes."""
        return self.name != "slow" and self.name not in DISTORTIONS


def parse_fault(raw: object) -> Fault:
    """A fault from its short form (`"slow:3"`) or from an object (`{"name": "slow", "seconds": 3}`).

    Raises:
        BadFault: no such fault, or a parameter of the wrong kind.
    """
    if isinstance(raw, str):
        short, colon, value = raw.strip().partition(":")
        raw = {"name": short, SHORT_FIELD.get(short, "seconds"): value} if colon else {"name": short}
    if not isinstance(raw, Mapping):
        raise BadFault(f"a fault is a name or an object, not {raw!r}")
    name = raw.get("name")
    if name not in NAMES:
        raise BadFault(f"no fault is called {name!r}; there are {', '.join(sorted(NAMES))}")
    strange = sorted(str(key) for key in set(raw) - {each.name for each in fields(Fault)})
    if strange:
        raise BadFault(f"{name} has no parameter {', '.join(strange)}")
    given: dict[str, Any] = {str(key): _converted(str(key), raw[key]) for key in raw}
    return Fault(**{"calls": _default_calls(str(name)), **given})


def parse_faults(raw: object) -> tuple[Fault, ...]:
    if not isinstance(raw, Iterable) or isinstance(raw, str | Mapping):
        raise BadFault("faults are a list")
    return tuple(parse_fault(each) for each in raw)


def _default_calls(name: str) -> frozenset[str]:
    if name == "refuse-stream":
        return frozenset({"stream"})
    return frozenset({"status", "stream", "cancel"}) if name in GONE else frozenset({"status"})


def _converted(key: str, value: object) -> object:
    if key == "calls":
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not CALLS.union({"*"}).issuperset(names):
            raise BadFault(f"calls are among {', '.join(sorted(CALLS))}, or *; not {value!r}")
        return CALLS if "*" in names else frozenset(names)
    if key in ("name", "location", "retry_after", "word"):
        return str(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # a wrong kind is what the except is for
    except (TypeError, ValueError) as wrong:
        raise BadFault(f"{key} is a number, not {value!r}") from wrong
    return number if key in ("seconds", "rate") else int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a fault may know about the call that it could strike."""

    call: str
    task_id: str
    final: bool = False
    running: bool = False
    shown: int = 0
    final_shown: bool = False


@dataclass(slots=True)
class Armed:
    """A fault with its counts, which are kept for every task apart."""

    fault: Fault
    _seen: dict[str, int] = field(default_factory=dict)
    _struck: dict[str, int] = field(default_factory=dict)

    def due(self, sighting: Sighting) -> bool:
        """Whether it may strike now. Counts the call, so it is asked once per call."""
        if sighting.call not in self.fault.calls:
            return False
        seen = self._seen.get(sighting.task_id, 0)
        self._seen[sighting.task_id] = seen + 1
        if seen < (self.fault.after or 0):
            return False
        if self.fault.times is not None and self._struck.get(sighting.task_id, 0) >= self.fault.times:
            return False
        return self._fits(sighting)

    def strike(self, task_id: str) -> Fault:
        self._struck[task_id] = self._struck.get(task_id, 0) + 1
        return self.fault

    def _fits(self, sighting: Sighting) -> bool:
        match self.fault.name:
            case "regress":
                return sighting.final and sighting.final_shown
            case "flap":
                return sighting.running
            case "vanish":
                return self.fault.after is not None or sighting.shown > 0
            case _:
                return True


class FaultBook:
    """The faults of all tasks, by provider (`*` for every one), changeable while the simulator runs."""

    def __init__(self, seed: int, everywhere: Iterable[Fault], rate: float) -> None:
        self._dice = random.Random(seed)
        self._rate = rate
        self._armed: dict[str, list[Armed]] = {}
        self.set({"*": tuple(everywhere)})

    def set(self, by_provider: Mapping[str, Iterable[Fault]]) -> None:
        for provider, faults in by_provider.items():
            self._armed[provider] = [Armed(fault) for fault in faults]

    def listed(self) -> dict[str, list[str]]:
        return {name: [each.fault.name for each in armed] for name, armed in self._armed.items() if armed}

    def quiet(self, provider: str) -> bool:
        """Whether no fault is set for a whole provider; a benchmark asks this at every call."""
        return not (self._armed.get("*") or self._armed.get(provider))

    def strikes(self, provider: str, own: Iterable[Armed], sighting: Sighting) -> tuple[Fault, ...]:
        """The faults that strike this call.

        The task's own come first and in their order, up to one that ends the call; of those set for everybody
        one is chosen, for the share of calls that was asked for.
        """
        struck: list[Fault] = []
        ended = False
        for armed in own:
            if armed.due(sighting) and not ended:
                struck.append(armed.strike(sighting.task_id))
                ended = armed.fault.ends
        general = self._general(provider, sighting)
        if general and not ended:
            struck.append(self._dice.choice(general).strike(sighting.task_id))
        return tuple(struck)

    def _general(self, provider: str, sighting: Sighting) -> list[Armed]:
        if self.quiet(provider):
            return []
        common = self._dice.random() < self._rate
        due = [each for name in ("*", provider) for each in self._armed.get(name, ()) if each.due(sighting)]
        return [
            each
            for each in due
            if (common if each.fault.rate is None else self._dice.random() < each.fault.rate)
        ]
