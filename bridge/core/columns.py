"""The vocabulary of the field table: how a field is read, merged, compared and written.

`core.task` declares one row per field; `core.merge` and `wire.document` generate their functions from the
rows. Generated, not interpreted: both run for every poll or event, and a loop over rows takes three times
as long as the straight code a person would write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import Enum, auto
from typing import Any

_ROW = "column"


class Read(Enum):
    """Which values of a provider's document a field accepts; `dialects.values` has the readers."""

    KEY = auto()  # not read: part of the task key or of the cursor
    STATUS = auto()  # the status words of a dialect
    WORD = auto()  # a short text without control characters
    SENTENCE = auto()  # a message for people
    IDENTIFIER = auto()  # an id, always as text
    NUMBER = auto()  # finite, not negative
    PERCENTAGE = auto()  # 0 to 100
    COUNT = auto()  # a whole number from 0
    TIME = auto()  # Unix seconds, whatever form the provider uses
    OUTPUTS = auto()  # the output rules of a dialect
    FAILURE = auto()  # error code and message together
    RAW = auto()  # the bytes of the response
    OURS = auto()  # not read: the bridge knows it


class Merge(Enum):
    """How an observation changes a field that has a value already."""

    FIXED = auto()  # identifies the task or the event; never merged
    REPLACE = auto()  # the observed value, None included
    KEEP = auto()  # the observed value unless it is None
    KEEP_FILLED = auto()  # the observed value unless it is empty
    PROGRESS = auto()  # rule 2 of `core.merge`
    ESTIMATE = auto()  # what `core.estimate` makes of it; None once the status is final
    NOW = auto()  # the time of the observation
    SOURCE = auto()  # the source of the observation


class Emit(Enum):
    """Whether a new value makes an event that subscribers receive."""

    NEVER = auto()
    ON_CHANGE = auto()
    ON_UNSIGNED_CHANGE = auto()  # outputs, compared without link signatures and expiry times


class Write(Enum):
    """How the state document shows a field."""

    OMIT = auto()  # read for the bridge's own use
    KEY = auto()
    PLAIN = auto()
    NUMBER = auto()  # a whole number without `.0`
    TIME = auto()  # RFC 3339
    CHANGED = auto()  # RFC 3339, kept for `OBSERVED`
    OBSERVED = auto()  # RFC 3339, of the newest confirmation
    OUTPUTS = auto()
    FAILURE = auto()
    COST = auto()  # a key of the object `cost`
    CURSOR = auto()
    RAW = auto()  # embedded JSON, on request


@dataclass(frozen=True, slots=True)
class Column:
    """One row of the field table.

    Args:
        rules: Keys of a dialect's `[fields]` table that the field is read by; empty where it has rules of
            its own.
    """

    name: str
    read: Read
    merge: Merge
    emit: Emit
    write: Write
    rules: tuple[str, ...] = ()


def column(
    *,
    read: Read,
    merge: Merge = Merge.FIXED,
    emit: Emit = Emit.NEVER,
    write: Write = Write.OMIT,
    rules: tuple[str, ...] | None = None,
    default: Any = MISSING,
    repr: bool = True,  # noqa: A002 - as in `dataclasses.field`
) -> Any:
    """Declare a dataclass field together with its row.

    Args:
        rules: None when the dialect key is the name of the field.
    """
    row = Column("", read, merge, emit, write, rules if rules is not None else ("",))
    return field(default=default, repr=repr, metadata={_ROW: row})


def rows(cls: type) -> tuple[Column, ...]:
    """The rows of a dataclass, in the order of its fields."""
    named = []
    for attribute in fields(cls):
        row: Column = attribute.metadata[_ROW]
        rules = tuple(rule or attribute.name for rule in row.rules)
        named.append(replace(row, name=attribute.name, rules=rules))
    return tuple(named)


def generate(head: str, lines: Iterable[str], names: dict[str, Any]) -> Any:
    """Compile a function from source text, as `dataclasses` does.

    Args:
        head: Name and parameters, `weighed(known, seen)`.
        lines: The body, indentation excluded. Built from the table alone: nothing from outside is executed.
        names: What the body may refer to.
    """
    source = "\n    ".join([f"def {head}:", *lines])
    functions: dict[str, Any] = {}
    exec(compile(source, f"<{head}>", "exec"), names, functions)  # noqa: S102 - see above
    return functions[head.partition("(")[0]]
