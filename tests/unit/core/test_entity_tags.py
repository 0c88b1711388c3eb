"""Which state an entity tag names after all that proxies do to it."""

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.entity_tags import names

CURSOR = "k3f9-17"
SUFFIXES = [
    "-gzip",
    "--gzip",
    ";gzip",
    "-br",
    "-zstd",
    "-deflate",
    "+gzip",
    ":gzip",
    ".gz",
    "/gzip",
    "-gzip-br",
]
CURSORS = st.from_regex(re.compile(r"[A-Za-z0-9]{1,12}-(0|[1-9][0-9]{0,6})", re.ASCII), fullmatch=True)


def in_quotes(tag):
    return f'"{tag}"'


@pytest.mark.parametrize(
    "tags",
    [
        CURSOR,
        f'"{CURSOR}"',
        f'W/"{CURSOR}"',
        f'w/"{CURSOR}"',
        f"W/{CURSOR}",
        f"'{CURSOR}'",
        f'"W/"{CURSOR}""',
        f'"\\"{CURSOR}\\""',
        f'  "{CURSOR}"  ',
        quote(f'"{CURSOR}"'),
        quote(f'W/"{CURSOR}-gzip"', safe=""),
        f'"x-1","{CURSOR}"',
        f'"x-1", W/"{CURSOR}-br" , "y-2"',
        f"{CURSOR}.a1b2c3d4",
        "*",
        " * ",
        *[f'"{CURSOR}{suffix}"' for suffix in SUFFIXES],
        *[f'"{CURSOR}"{suffix}' for suffix in SUFFIXES],
        *[f'W/"{CURSOR}{suffix}"' for suffix in SUFFIXES],
    ],
)
def test_the_tag_that_was_given_is_known_again(tags):
    assert names(tags, CURSOR)


@pytest.mark.parametrize(
    "tags",
    [
        "",
        '""',
        '"*x"',
        "k3f9",
        '"k3f9-1"',
        '"k3f9-170"',
        '"k3f9-17~p500"',
        '"ak3f9-17"',
        '"a-k3f9-17"',
        '"a.k3f9-17"',
        '"K3F9-17"',
        '"k3f9-18-gzip"',
        '"k3f9 -17"',
        "%" * 1000,
    ],
)
def test_another_tag_is_not(tags):
    assert not names(tags, CURSOR)


def test_a_tag_of_a_state_that_is_not_recorded_yet_is_that_state_alone():
    assert names('W/"k3f9-17~p500-gzip"', "k3f9-17~p500")
    assert not names('"k3f9-17~p50"', "k3f9-17~p500")


@given(
    cursors=st.lists(CURSORS, min_size=1, max_size=4, unique=True),
    suffix=st.sampled_from(["", *SUFFIXES]),
    prefix=st.sampled_from(["", "W/", "w/"]),
    quoted=st.booleans(),
    encoded=st.booleans(),
)
def test_of_a_list_exactly_its_cursors_are_known_again(cursors, suffix, prefix, quoted, encoded):
    *others, last = cursors
    tags = ", ".join(
        f'{prefix}"{cursor}{suffix}"' if quoted else f"{prefix}{cursor}{suffix}" for cursor in others
    )
    if encoded:
        tags = quote(tags)
    assert all(names(tags, cursor) for cursor in others)
    assert not names(tags, last)


@given(tags=st.text(max_size=60))
def test_whatever_is_sent_is_read(tags):
    assert names(tags, CURSOR) == (tags.strip() == "*" or CURSOR in tags)
