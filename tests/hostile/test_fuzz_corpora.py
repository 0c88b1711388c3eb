"""The fuzz targets over what is kept of their corpora, and over some changes of it that chance makes."""

from __future__ import annotations

import random

import pytest

from tests.hostile.fuzz.seeds import kept, seeds
from tests.hostile.fuzz.targets import TARGETS

CHANGED = {"heads": 60, "frames": 60}
CHANGED_OTHERS = 150
SPLICES = (b"\r\n", b"\0", b"\xff", b'"', b"{", b"[", b"%", b":", b"-", b"9" * 20, b"\\", b"data:", b"null")


def changed(data: bytes, chance: random.Random) -> bytes:
    """A byte flipped, a piece cut out, doubled or put in."""
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at, size = chance.randrange(len(made) + 1), chance.randint(1, 16)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at : at + size]
            case 2:
                made[at:at] = made[at : at + size]
            case _:
                made[at:at] = chance.choice(SPLICES)
    return bytes(made)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_of_the_corpus_breaks_a_promise(name: str) -> None:
    target = TARGETS[name]
    corpus = [*seeds(name), *kept(name)]
    assert corpus
    chance = random.Random(f"{name}")
    for data in corpus if len(corpus) < 200 else chance.sample(corpus, 200):
        target(data)
    for _ in range(CHANGED.get(name, CHANGED_OTHERS)):
        target(changed(chance.choice(corpus), chance))
