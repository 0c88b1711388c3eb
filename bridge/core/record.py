"""Values that are made for every look and every change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Value = TypeVar("Value")


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def record(cls: type[Value]) -> type[Value]:
    """A class whose objects never change: a frozen dataclass with slots and keywords, to the type checker.

    Only there, since a dataclass frozen at run time sets each field by a call: to make a `State` takes 7 µs
    that way, and 3 µs this way.
    """
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)
