"""Tokens for the bridges of these tests."""

from __future__ import annotations

import time

import jwt

SECRET = "a secret of the tests, 32 bytes long"


def mint(*, scope: str = "read submit cancel admin", secret: str = SECRET, issuer: str = "test") -> str:
    """A token for all tasks, good for an hour."""
    claims = {"iss": issuer, "aud": "task-event-bridge", "sub": "test", "scope": scope, "tasks": ["*"]}
    return jwt.encode(claims | {"exp": int(time.time()) + 3600}, secret, algorithm="HS256")  # noqa: TID251 - wall time, as tokens have it
