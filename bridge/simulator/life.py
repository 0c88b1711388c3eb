"""Decides how a task lives: how long it queues and runs, how it ends, how far it is at a moment."""

import random
import zlib
from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """Where a task is, before a provider puts its own word to it."""

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
class Life:
    queue_seconds: float
    run_seconds: float
    outcome: Stage

    @property
    def seconds(self) -> float:
        return self.queue_seconds + self.run_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a submit body may ask for; `None` leaves it to the seed."""

    queue_seconds: float | None = None
    run_seconds: float | None = None
    outcome: Stage | None = None


# Seconds in the queue and at work, from the waiting times the docs advise: qingbo polls every
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


def dice(seed: int, provider: str, number: int, purpose: str) -> random.Random:
    """Chance that depends only on the seed and the number of the task, never on the order of calls."""
    return random.Random(zlib.crc32(f"{purpose}/{provider}/{number}".encode()) ^ (seed << 32))


def plan(rolled: random.Random, media: Media, wish: Wish, speed: float) -> Life:
    """The life of one task; every number is rolled even when a wish replaces it, so wishes shift nothing."""
    queue, run = (rolled.uniform(*span) for span in SPANS[media])
    fails = rolled.random() < FAILING_SHARE
    return Life(
        queue_seconds=(queue if wish.queue_seconds is None else wish.queue_seconds) / speed,
        run_seconds=(run if wish.run_seconds is None else wish.run_seconds) / speed,
        outcome=wish.outcome or (Stage.FAILED if fails else Stage.COMPLETED),
    )


def guess_media(*hints: str) -> Media:
    """The kind of result from the action and the model; the first that says anything decides."""
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
