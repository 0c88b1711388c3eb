"""Generates ids that look like a recorded one."""

import random
import re
import string

MIN_VARIED = 8
_SEPARATORS = re.compile(r"([^A-Za-z0-9]+)")
_LOWER_HEX = frozenset("0123456789abcdef")
_UPPER_HEX = frozenset("0123456789ABCDEF")


def similar_id(recorded: str, rng: random.Random) -> str:
    """Return a new id in the form of a recorded one: same separators, prefix (`cgt-`) and character classes.

    Only the part after the last slash changes, as in Veo's `models/veo-3/operations/abc`. A short id is
    extended, so that two tasks never share one.
    """
    above, slash, last = recorded.rpartition("/")
    tokens = _SEPARATORS.split(last)
    words = [token for token in tokens if token.isalnum()]
    prefix = words[0] if len(words) > 1 and words[0].isalpha() else None
    fresh: list[str] = []
    for token in tokens:
        keeps = token == prefix and not fresh
        fresh.append(token if keeps or not token.isalnum() else _token(token, rng))
    varied = sum(len(word) for word in words) - len(prefix or "")
    if varied < MIN_VARIED:
        kind = last[-1:] if last[-1:].isalnum() else "0"
        fresh.append(_token(kind * (MIN_VARIED - varied), rng))
    return f"{above}{slash}{''.join(fresh)}"


def _token(token: str, rng: random.Random) -> str:
    kinds = set(token)
    for digits in (_LOWER_HEX, _UPPER_HEX):
        if kinds <= digits and not token.isdecimal() and not token.isalpha():
            return "".join(rng.choices(sorted(digits), k=len(token)))
    return "".join(_character(old, first=not index, rng=rng) for index, old in enumerate(token))


def _character(old: str, *, first: bool, rng: random.Random) -> str:
    if old.isdecimal():
        return rng.choice("123456789" if first else string.digits)  # a number has no leading zero
    return rng.choice(string.ascii_uppercase if old.isupper() else string.ascii_lowercase)
