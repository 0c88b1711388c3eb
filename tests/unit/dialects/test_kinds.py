"""What the id of a task tells of its kind, and how long the bridge waits between polls by itself."""

from __future__ import annotations

import pytest

from bridge.dialects.registry import load_preset, load_text, preset_names
from bridge.errors import ConfigError

KINDS = {
    ("fal", "fal-ai/flux/dev/6a2b"): ("fal-ai/flux", None),
    ("fal", "workflows/acme/poster/6a2b"): ("workflows/acme/poster", None),
    ("kling", "videos/text2video/123"): (None, "videos/text2video"),
    ("runpod", "a1b2c3/job-1"): ("a1b2c3", None),
    ("veo", "models/veo-3.1-generate-preview/operations/x1"): ("veo-3.1-generate-preview", None),
    ("veo", "operations/x1"): (None, None),
    ("stability", "stable-image/upscale/creative/12ab"): (None, "stable-image/upscale/creative"),
    ("stability", "12ab"): (None, "image-to-video"),
    ("runway", "workflow_invocations/7"): (None, "workflow_invocations"),
    ("bfl", "api.eu1.bfl.ai/12ab"): (None, None),
    ("qingbo", "task-1"): (None, None),
    ("kling", "no id of Kling"): (None, None),
}


@pytest.mark.parametrize(("preset", "task_id"), KINDS)
def test_an_id_names_the_kind_where_responses_may_not(preset: str, task_id: str) -> None:
    assert load_preset(preset).kind_of(task_id) == KINDS[preset, task_id]


def test_a_mapping_with_the_key_that_had_no_effect_is_still_one() -> None:
    text = "base_url = 'https://x.example'\nstatus = {at = 'status'}\n"
    text += "[calls.status]\npath = '/t/{task_id}'\n[poll]\n"
    dialect = load_text(text + "follows_estimate = true\nmax_seconds = 50\nrecommended_seconds = 2\n", "x")
    assert (dialect.poll.usual_seconds, dialect.poll.max_seconds) == (10.0, 50.0)
    with pytest.raises(ConfigError, match="usual_seconds"):
        load_text(text + "usual_seconds = 99\n", "x")


def test_a_maximum_that_a_provider_documents_is_kept() -> None:
    assert load_preset("qingbo").poll.max_seconds == 5.0
    assert load_preset("bytespike").poll.max_seconds == 5.0
    assert load_preset("bfl").poll.max_seconds == 10.0
    assert load_preset("kie").poll.max_seconds == 30.0


@pytest.mark.parametrize("preset", preset_names())
def test_a_longer_maximum_of_ours_leaves_the_usual_interval_as_it_was(preset: str) -> None:
    poll = load_preset(preset).poll
    assert poll.min_seconds <= poll.usual_seconds <= poll.max_seconds
    documented = (poll.recommended_seconds * poll.max_seconds) ** 0.5
    ours = (poll.recommended_seconds * poll.max_seconds / 2) ** 0.5
    assert poll.usual_seconds == pytest.approx(documented, rel=0.02) or poll.usual_seconds == pytest.approx(
        ours, rel=0.03
    )
