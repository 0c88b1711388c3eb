import pytest

from bridge.simulator.lifecycle import (
    SPANS,
    LifecycleOverrides,
    Media,
    Stage,
    guess_media,
    plan_lifecycle,
    seeded_random,
)


def lives(seed, count=400, media=Media.VIDEO, speed=1.0):
    return [
        plan_lifecycle(seeded_random(seed, "qingbo", number, "life"), media, LifecycleOverrides(), speed)
        for number in range(count)
    ]


def test_the_same_seed_plans_the_same_lives():
    assert lives(7) == lives(7)
    assert lives(7) != lives(8)


def test_most_tasks_succeed_and_some_fail():
    failed = sum(lifecycle.outcome is Stage.FAILED for lifecycle in lives(1))
    assert 5 < failed < 60


@pytest.mark.parametrize("media", Media)
def test_times_are_within_what_is_usual(media):
    queue, run = SPANS[media]
    for lifecycle in lives(3, 50, media):
        assert queue[0] <= lifecycle.queue_seconds <= queue[1]
        assert run[0] <= lifecycle.run_seconds <= run[1]


def test_speed_divides_times():
    slow, fast = lives(3, 1)[0], lives(3, 1, speed=10)[0]
    assert fast.seconds == pytest.approx(slow.seconds / 10)


def test_a_wish_replaces_its_part_and_shifts_nothing_else():
    free = plan_lifecycle(seeded_random(5, "vapi", 1, "life"), Media.VIDEO, LifecycleOverrides(), 1)
    wished = plan_lifecycle(
        seeded_random(5, "vapi", 1, "life"),
        Media.VIDEO,
        LifecycleOverrides(queue_seconds=0, outcome=Stage.FAILED),
        1,
    )
    assert (wished.queue_seconds, wished.outcome) == (0, Stage.FAILED)
    assert wished.run_seconds == free.run_seconds


@pytest.mark.parametrize(
    ("hints", "media"),
    [
        (("generate", "veo3"), Media.VIDEO),
        (("image2video", "nano-banana"), Media.VIDEO),
        (("generate", "flux-pro"), Media.IMAGE),
        (("generate", "suno-v4"), Media.AUDIO),
        (("edit", "something"), Media.VIDEO),
    ],
)
def test_the_kind_of_result_is_guessed_from_action_and_model(hints, media):
    assert guess_media(*hints) is media
