import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.simulator.recorded.ids import similar_id


def rng(seed=0):
    return random.Random(seed)


@pytest.mark.parametrize(
    ("recorded", "form"),
    [
        ("764cabcf-b745-4b3e-ae38-1200304cf45b", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
        ("cgt-20250331175019-68d9t", r"cgt-[1-9]\d{13}-[1-9]\d[a-z]\d[a-z]"),
        ("task_01HQX9F2P6Y8VEX3CRZ8GXJVD9", r"task_[1-9]\d[A-Z0-9]{24}"),
        ("106916112212032", r"[1-9]\d{14}"),
        ("models/veo-3.1/operations/abcdefgh12", r"models/veo-3\.1/operations/[a-z]{8}[1-9]?\d+"),
        ("88", r"[1-9]\d[1-9]\d{5}"),
    ],
)
def test_a_new_id_has_the_form_of_the_recorded_one(recorded, form):
    fresh = similar_id(recorded, rng())
    assert re.fullmatch(form, fresh), fresh
    assert fresh != recorded
    assert similar_id(recorded, rng()) == fresh
    assert similar_id(recorded, rng(1)) != fresh


@given(st.text(alphabet="abzAZ019-_./~", min_size=1, max_size=80))
def test_any_recorded_id_gives_ids_that_differ(recorded):
    made = {similar_id(recorded, rng(seed)) for seed in range(20)}
    assert len(made) == 20
    assert all(fresh.rpartition("/")[0] == recorded.rpartition("/")[0] for fresh in made)
