"""What a misspelt name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_COMPARED = 64  # the comparison takes quadratic time, and a name may come from a request


def did_you_mean(name: str, choices: Iterable[str], otherwise: str = "", *, prefix: str = "") -> str:
    """The end of an error about an unknown name: `; did you mean 'fal'?`.

    Args:
        prefix: Put before the suggested name, and not compared.
        otherwise: What to return if no choice is close, with its own separator.
    """
    known = {choice.lower(): choice for choice in choices}
    found = get_close_matches(name.lower()[:MAX_COMPARED], known, n=1)
    return f"; did you mean {prefix + known[found[0]]!r}?" if found else otherwise
