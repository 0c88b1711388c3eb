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
    TIME = auto()  # Unix seconds, converted from the format of the provider
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
    ETA_AT = auto()  # our estimate; None where the status is final or `unknown`
    ETA_BY = auto()
    NOW = auto()  # the time of the observation
    SOURCE = auto()  # the source of the observation


class Emit(Enum):
    """Whether a new value makes an event that subscribers receive."""

    NEVER = auto()
    ALWAYS = auto()
    UNSIGNED = auto()  # except for changes of link signatures and expiry times only


class Write(Enum):
    """How the state document shows a field."""

    OMIT = auto()  # read for the bridge's own use
    KEY = auto()
    PLAIN = auto()
    NUMBER = auto()  # a whole number without `.0`
    TIME = auto()  # RFC 3339
    LEFT = auto()  # seconds from the moment a copy is written until `eta_at`
    ETA = auto()  # RFC 3339, of the newest confirmation
    CHANGED = auto()  # RFC 3339, kept for `OBSERVED`
    OBSERVED = auto()  # RFC 3339, of the newest confirmation
    OUTPUTS = auto()
    FAILURE = auto()
    COST = auto()  # a key of the object `cost`
    CURSOR = auto()
    RAW = auto()  # embedded JSON, on request


_NO_RULES = frozenset({Read.KEY, Read.STATUS, Read.OUTPUTS, Read.RAW, Read.OURS})


@dataclass(frozen=True, slots=True)
class Column:
    """One row of the field table."""

    name: str
    read: Read
    merge: Merge
    emit: Emit
    write: Write

    @property
    def rules(self) -> tuple[str, ...]:
        """Keys of a dialect's `[fields]` table; none where the field has rules of its own."""
        if self.read is Read.FAILURE:
            return f"{self.name}_code", f"{self.name}_message"
        return () if self.read in _NO_RULES else (self.name,)


def column(
    read: Read,
    merge: Merge = Merge.FIXED,
    emit: Emit = Emit.NEVER,
    write: Write = Write.OMIT,
    *,
    default: Any = MISSING,
) -> Any:
    """Declare a dataclass field together with its row."""
    row = Column("", read, merge, emit, write)
    # The raw document may be megabytes, which would drown a traceback.
    return field(default=default, repr=read is not Read.RAW, metadata={_ROW: row})


def rows(cls: type) -> tuple[Column, ...]:
    """The rows of a dataclass, in the order of its fields."""
    return tuple(replace(attribute.metadata[_ROW], name=attribute.name) for attribute in fields(cls))


def generate(head: str, lines: Iterable[str], names: dict[str, Any]) -> Any:
    """Compile a function from source text, as `dataclasses` does.

    Args:
        head: Name and parameters, such as `merged(before, observation)`.
        lines: The body, without its indentation. Built from the table alone: nothing from outside is
            executed.
        names: What the body may refer to.
    """
    source = "\n    ".join([f"def {head}:", *lines])
    functions: dict[str, Any] = {}
    exec(compile(source, f"<{head}>", "exec"), names, functions)  # noqa: S102 - see above
    return functions[head.partition("(")[0]]
