"""Every viewer on every delivery ends with the provider's last word, once, in order and in time.

Tasks of all presets, every kind of fault mixed at random; a whole bridge in this process, time that jumps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bridge.core import watch as core
from bridge.core.event import NoticeCode
from bridge.core.task import Status
from bridge.core.watch import NO_UPDATE, Watch
from bridge.dialects.dialect import Dialect
from bridge.hub.hub import Hub
from tests.fakes.virtual import LoopClock, run
from tests.truth.scene import Scene


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def judged(seed: int, each: int) -> list[str]:
    """The faults of one scene."""

    async def play(clock: LoopClock) -> list[str]:
        return await Scene(clock, seed, each).play()

    found: list[str] = run(play)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_every_viewer_ends_with_the_providers_last_word(seed: int) -> None:
    found = judged(seed, each=6)
    assert not found, "\n".join(found[:20])


@pytest.mark.extended
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [12, 13, 14])
def test_so_do_thousands(seed: int) -> None:
    found = judged(seed, each=60)
    assert not found, "\n".join(found[:20])


def _success_before_the_second_call(patch: pytest.MonkeyPatch) -> None:
    def without_result(self: Any, observation: Any, trouble: Any, **more: Any) -> Any:
        return self.observed(observation, **more)

    patch.setattr(Watch, "without_result", without_result)


def _one_404_ends(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watch, "_missing_grace", lambda *_: (1, 0.0, 1.0))
    patch.setattr(core, "VOUCHED_SECONDS", 0.0)


def _backoff_is_not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Watch, "joined", lambda *_, **__: None)


def _lost_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(core, "LOST_AFTER_SECONDS", 0.0)
    patch.setattr(core, "LOST_POLL_SECONDS", 1e6)


def _missing_is_not_told_again(patch: pytest.MonkeyPatch) -> None:
    told = Hub.noticed

    def noticed(self: Any, key: Any, notice: Any) -> None:
        if notice.code is not NoticeCode.TASK_NOT_FOUND:
            told(self, key, notice)

    patch.setattr(Hub, "noticed", noticed)


def _unreadable_results_fail(patch: pytest.MonkeyPatch) -> None:
    def without_result(self: Any, observation: Any, trouble: Any, **more: Any) -> Any:
        from dataclasses import replace

        return self.observed(replace(observation, status=Status.FAILED, outputs=()), **more)

    patch.setattr(Watch, "without_result", without_result)


def _failed_polls_end_the_watch(patch: pytest.MonkeyPatch) -> None:
    def failed(self: Any, error: Any, **more: Any) -> Any:
        self._set_due(more["now"], 5000.0)
        return NO_UPDATE

    patch.setattr(Watch, "failed", failed)


def _no_second_reading(patch: pytest.MonkeyPatch) -> None:
    read = Dialect.read_status

    def strict(self: Any, answer: Any, task_id: Any = None) -> Any:
        from dataclasses import replace

        return read(self, replace(answer, body=answer.body.replace(b"NaN", b"\x00{")), task_id)

    patch.setattr(Dialect, "read_status", strict)


@pytest.mark.parametrize(
    "plant",
    [
        _success_before_the_second_call,
        _one_404_ends,
        _backoff_is_not_cut,
        _lost_is_forgotten,
        _missing_is_not_told_again,
        _unreadable_results_fail,
        _failed_polls_end_the_watch,
        _no_second_reading,
    ],
)
@pytest.mark.extended
@pytest.mark.timeout(400)
def test_the_judge_finds_what_is_planted(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(judged(seed, each=12) for seed in (1, 2, 4))
