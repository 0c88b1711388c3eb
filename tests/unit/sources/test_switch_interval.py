"""While a thread masks a document, the event loop gets the interpreter back soon; afterwards as ever."""

from __future__ import annotations

import sys

import pytest

from bridge.sources.http_client import _short_switches


def test_the_interval_is_short_while_any_thread_masks() -> None:
    before = sys.getswitchinterval()
    with _short_switches():
        with pytest.raises(ValueError), _short_switches():  # noqa: PT011 - another's ends in an error
            raise ValueError
        assert sys.getswitchinterval() == pytest.approx(0.001)
    assert sys.getswitchinterval() == pytest.approx(before) == pytest.approx(0.005)
