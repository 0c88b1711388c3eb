"""Makes ids that look like a recorded one."""

import random
import re
import string

SHORTEST = 8
_MARKS = re.compile(r"([^A-Za-z0-9]+)")
_LOWER_HEX = frozenset("0123456789abcdef")
_UPPER_HEX = frozenset("0123456789ABCDEF")


def alike(recorded: str, rolled: random.Random) -> str:
    """A new id of the form of the recorded one: its marks, its prefix (`cgt-`), its kinds of characters.

    Only what follows the last slash is new, as in Veo's `models/veo-3/operations/abc`. A short id grows, so
    that two tasks never share one.
    """
    above, slash, last = recorded.rpartition("/")
    tokens = _MARKS.split(last)
    words = [token for token in tokens if token.isalnum()]
    prefix = words[0] if len(words) > 1 and words[0].isalpha() else None
    fresh: list[str] = []
    for token in tokens:
        keeps = token == prefix and not fresh
        fresh.append(token if keeps or not token.isalnum() else _token(token, rolled))
    varied = sum(len(word) for word in words) - len(prefix or "")
    if varied < SHORTEST:
        kind = last[-1:] if last[-1:].isalnum() else "0"
        fresh.append(_token(kind * (SHORTEST - varied), rolled))
    return f"{above}{slash}{''.join(fresh)}"


def _token(token: str, rolled: random.Random) -> str:
    kinds = set(token)
    for digits in (_LOWER_HEX, _UPPER_HEX):
        if kinds <= digits and not token.isdecimal() and not token.isalpha():
            return "".join(rolled.choices(sorted(digits), k=len(token)))
    return "".join(_character(each, first=not index, rolled=rolled) for index, each in enumerate(token))


def _character(old: str, *, first: bool, rolled: random.Random) -> str:
    if old.isdecimal():
        return rolled.choice("123456789" if first else string.digits)  # a number has no leading zero
    return rolled.choice(string.ascii_uppercase if old.isupper() else string.ascii_lowercase)
