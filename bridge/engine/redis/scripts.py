"""The scripts that run in the server, one per operation; each has `common.lua` before it."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib import resources
from typing import NamedTuple

from bridge.engine.base import BEAT_SECONDS, ENTRY_BYTES, JOB_SECONDS, KEPT_SECONDS, UNHEARD_SECONDS


class ServerScript(NamedTuple):
    """A script, and the name under which a server that has seen it knows it."""

    text: str
    digest: str


@cache
def load_scripts(formats: tuple[str, ...]) -> dict[str, ServerScript]:
    """Every script by its name.

    Args:
        formats: Of data that it may work on.
    """
    folder = resources.files(__package__) / "lua"
    texts = {
        entry.name.removesuffix(".lua"): entry.read_text("utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".lua")
    }
    common, jobs, lists = (texts.pop(name) for name in ("common", "jobs", "lists"))
    readable = ", ".join(f"[{name!r}] = true" for name in formats)
    constants = (
        f"local ENTRY_BYTES, BEAT_MICROSECONDS = {ENTRY_BYTES}, {round(BEAT_SECONDS * 1_000_000)}\n"
        f"local UNHEARD = {round(UNHEARD_SECONDS * 1_000_000)}\n"
        f"local KEPT_MICROSECONDS = {round(KEPT_SECONDS * 1_000_000)}\n"
        f"local READABLE_FORMATS = {{{readable}}}\n"
    )
    about_jobs = (
        f"local JOB_MICROSECONDS = {round(JOB_SECONDS * 1_000_000)}\n"
        f"local JOB_MILLISECONDS = {round(JOB_SECONDS * 1000)}\n{jobs}"
    )
    scripts = {}
    for name, body in texts.items():
        text = constants + common + (about_jobs if name in _ABOUT_JOBS else "")
        text += (lists if name in _ABOUT_LISTS else "") + body
        # SHA-1 is how servers name scripts.
        scripts[name] = ServerScript(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
    return scripts


_ABOUT_JOBS = ("apply", "add_jobs", "claim_jobs", "finish_job", "waiting", "drop_queue")
_ABOUT_LISTS = ("register", "forget", "delete")
