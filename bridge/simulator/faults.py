"""The faults a provider can have, and the choice of those that apply to a call."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

CALLS = frozenset({"submit", "status", "status_many", "sync", "cancel", "stream", "file"})

# Refusals: HTTP status, code and message, sent in the provider's own error envelope.
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
# Of an answer about many tasks.
OF_MANY = frozenset({"left-out", "sick", "foreign", "doubled", "disorder"})
NAMES = frozenset({"slow", "refuse-stream"}) | OF_MANY | GONE | DISTORTIONS | REPLACEMENTS | set(REFUSALS)

# `name:number` on the command line sets this field.
SHORT_FIELD = {
    "slow": "seconds",
    "slow-body": "seconds",
    "429-retry-after": "retry_after",
    "huge": "size",
    "refuse-stream": "status",
}


class BadFault(ValueError):
    """Unknown fault, or an invalid parameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault with its parameters; a fault ignores the parameters it does not use.

    Args:
        seconds: for `slow` the delay, for `slow-body` the time between bytes.
        times: how often it applies to a task; `None` is always.
        after: number of calls per task that succeed first.
        rate: share of calls it applies to (0-1); overrides the simulator's own rate.
        calls: the calls it applies to; `status` by default.
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
        """Whether no further fault can apply to the same call."""
        return self.name != "slow" and self.name not in DISTORTIONS | OF_MANY


def parse_fault(raw: object) -> Fault:
    """Parse a fault from its short form (`"slow:3"`) or an object (`{"name": "slow", "seconds": 3}`).

    Raises:
        BadFault: unknown fault, or a parameter of the wrong type.
    """
    if isinstance(raw, str):
        short, colon, value = raw.strip().partition(":")
        raw = {"name": short, SHORT_FIELD.get(short, "seconds"): value} if colon else {"name": short}
    if not isinstance(raw, Mapping):
        raise BadFault(f"a fault must be a name or an object, not {raw!r}")
    name = raw.get("name")
    if name not in NAMES:
        raise BadFault(f"unknown fault {name!r}; available: {', '.join(sorted(NAMES))}")
    unknown = sorted(str(key) for key in set(raw) - {parameter.name for parameter in fields(Fault)})
    if unknown:
        raise BadFault(f"{name} has no parameter {', '.join(unknown)}")
    parameters: dict[str, Any] = {str(key): _converted(str(key), raw[key]) for key in raw}
    return Fault(**{"calls": _default_calls(str(name)), **parameters})


def parse_faults(raw: object) -> tuple[Fault, ...]:
    if not isinstance(raw, Iterable) or isinstance(raw, str | Mapping):
        raise BadFault("faults must be a list")
    return tuple(parse_fault(each) for each in raw)


def _default_calls(name: str) -> frozenset[str]:
    if name == "refuse-stream":
        return frozenset({"stream"})
    if name in OF_MANY:
        return frozenset({"status_many"})
    return frozenset({"status", "stream", "cancel"}) if name in GONE else frozenset({"status"})


def _converted(key: str, value: object) -> object:
    if key == "calls":
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not CALLS.union({"*"}).issuperset(names):
            raise BadFault(f"calls must be among {', '.join(sorted(CALLS))}, or *; not {value!r}")
        return CALLS if "*" in names else frozenset(names)
    if key in ("name", "location", "retry_after", "word"):
        return str(value)
    try:
        number = float(value)  # type: ignore[arg-type]  # the except handles other types
    except (TypeError, ValueError) as error:
        raise BadFault(f"{key} must be a number, not {value!r}") from error
    return number if key in ("seconds", "rate") else int(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """The properties of a call that decide which faults apply to it."""

    call: str
    task_id: str
    final: bool = False
    running: bool = False
    shown: int = 0
    final_shown: bool = False


@dataclass(slots=True)
class ArmedFault:
    """A fault with its counters, which are kept per task."""

    fault: Fault
    _counted: dict[str, int] = field(default_factory=dict)
    _applied: dict[str, int] = field(default_factory=dict)

    def due(self, context: CallContext) -> bool:
        """Whether the fault may apply now. Counts the call, so call this once per call."""
        if context.call not in self.fault.calls:
            return False
        seen = self._counted.get(context.task_id, 0)
        self._counted[context.task_id] = seen + 1
        if seen < (self.fault.after or 0):
            return False
        if self.fault.times is not None and self._applied.get(context.task_id, 0) >= self.fault.times:
            return False
        return self._fits(context)

    def apply(self, task_id: str) -> Fault:
        self._applied[task_id] = self._applied.get(task_id, 0) + 1
        return self.fault

    def _fits(self, context: CallContext) -> bool:
        match self.fault.name:
            case "regress":
                return context.final and context.final_shown
            case "flap":
                return context.running
            case "vanish":
                return self.fault.after is not None or context.shown > 0
            case _:
                return True


class FaultSet:
    """The faults set per provider (`*` for all), changeable while the simulator runs."""

    def __init__(self, seed: int, everywhere: Iterable[Fault], rate: float) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._armed: dict[str, list[ArmedFault]] = {}
        self.set({"*": tuple(everywhere)})

    def set(self, by_provider: Mapping[str, Iterable[Fault]]) -> None:
        for provider, faults in by_provider.items():
            self._armed[provider] = [ArmedFault(fault) for fault in faults]

    def listed(self) -> dict[str, list[str]]:
        return {name: [each.fault.name for each in armed] for name, armed in self._armed.items() if armed}

    def is_empty(self, provider: str) -> bool:
        """Whether no fault is set for a provider. Fast path: a benchmark calls this for every request."""
        return not (self._armed.get("*") or self._armed.get(provider))

    def due_faults(self, provider: str, own: Iterable[ArmedFault], context: CallContext) -> tuple[Fault, ...]:
        """Return the faults that apply to a call.

        The task's own faults come first, in order, up to one that ends the call. Of the faults set for the
        provider, one is chosen at random, at the configured rate.
        """
        faults: list[Fault] = []
        ended = False
        for armed in own:
            if armed.due(context) and not ended:
                faults.append(armed.apply(context.task_id))
                ended = armed.fault.ends
        general = self._general(provider, context)
        if general and not ended:
            faults.append(self._random.choice(general).apply(context.task_id))
        return tuple(faults)

    def _general(self, provider: str, context: CallContext) -> list[ArmedFault]:
        if self.is_empty(provider):
            return []
        common = self._random.random() < self._rate
        due = [each for name in ("*", provider) for each in self._armed.get(name, ()) if each.due(context)]
        return [
            each
            for each in due
            if (common if each.fault.rate is None else self._random.random() < each.fault.rate)
        ]
