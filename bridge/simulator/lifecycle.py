"""Plans the lifecycle of a task from the seed: time in the queue, run time and outcome."""

import random
import zlib
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stage of a task, independent of the provider's status words."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (Stage.QUEUED, Stage.RUNNING)


class Media(StrEnum):
    VIDEO = "video"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    queue_seconds: float
    run_seconds: float
    outcome: Stage

    @property
    def seconds(self) -> float:
        return self.queue_seconds + self.run_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleOverrides:
    """What a submit body may override; `None` leaves the value to the seed."""

    queue_seconds: float | None = None
    run_seconds: float | None = None
    outcome: Stage | None = None


# Seconds in the queue and running, from the wait times that the docs recommend: qingbo polls every
# 2-5 s for up to 5 minutes (seed 000), ByteSpike's example estimates 35 s (tasks-query page).
SPANS: dict[Media, tuple[tuple[float, float], tuple[float, float]]] = {
    Media.VIDEO: ((1.0, 8.0), (20.0, 90.0)),
    Media.IMAGE: ((0.5, 3.0), (3.0, 12.0)),
    Media.AUDIO: ((0.5, 3.0), (5.0, 20.0)),
}
FAILING_SHARE = 0.06

IMAGE_WORDS = ("image", "flux", "banana", "seedream", "midjourney", "dall", "upscale", "style")
AUDIO_WORDS = ("audio", "music", "speech", "tts", "suno", "voice")
VIDEO_WORDS = ("video", "veo", "sora", "kling", "wan", "seedance", "hailuo")


def seeded_random(seed: int, provider: str, number: int, purpose: str) -> random.Random:
    """Return a generator that depends only on the seed and the task number, never on the order of calls."""
    return random.Random(zlib.crc32(f"{purpose}/{provider}/{number}".encode()) ^ (seed << 32))


def plan_lifecycle(
    rng: random.Random, media: Media, overrides: LifecycleOverrides, speed: float
) -> Lifecycle:
    """Plan one task. Overridden values are drawn too, so that an override does not shift the others."""
    queue, run = (rng.uniform(*span) for span in SPANS[media])
    fails = rng.random() < FAILING_SHARE
    return Lifecycle(
        queue_seconds=(queue if overrides.queue_seconds is None else overrides.queue_seconds) / speed,
        run_seconds=(run if overrides.run_seconds is None else overrides.run_seconds) / speed,
        outcome=overrides.outcome or (Stage.FAILED if fails else Stage.COMPLETED),
    )


def guess_media(*hints: str) -> Media:
    """Guess the type of result from the action and the model; the first hint with a known word decides."""
    for hint in hints:
        word = hint.lower()
        # Videos first: `image2video` makes one.
        if any(part in word for part in VIDEO_WORDS):
            return Media.VIDEO
        if any(part in word for part in AUDIO_WORDS):
            return Media.AUDIO
        if any(part in word for part in IMAGE_WORDS):
            return Media.IMAGE
    return Media.VIDEO
