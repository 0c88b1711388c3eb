import pytest

from bridge.dialects.base import Submission
from bridge.dialects.registry import load_document, load_preset, load_text, preset_names
from bridge.errors import ConfigError

SMALLEST = {
    "base_url": "https://x.example",
    "calls": {"status": {"path": "/t/{task_id}"}},
    "status": {"at": "status"},
}


def mistakes(document, name="made-up"):
    with pytest.raises(ConfigError) as caught:
        load_document(document, name)
    return caught.value.errors


def test_the_presets_are_there():
    assert {"bytespike", "qingbo", "vapi"} <= set(preset_names())
    assert repr(load_preset("qingbo")) == "<dialect qingbo: https://www.qingbo.dev>"


@pytest.mark.parametrize("name", ["nobody", "../qingbo", "qingbo.toml", ""])
def test_an_unknown_preset_is_a_mistake(name):
    with pytest.raises(ConfigError, match=r"no dialect .*choose one of: .*qingbo"):
        load_preset(name)


def test_the_smallest_document_is_enough():
    dialect = load_document(SMALLEST, "made-up")
    assert dialect.status_request("1").path == "/t/1"
    assert dialect.poll.min_seconds <= dialect.poll.recommended_seconds <= dialect.poll.max_seconds
    assert dialect.alias_request("a") is None
    assert dialect.stream_request("1") is None
    assert dialect.cancel_request("1") is None
    assert dialect.submit_request(Submission(body=b"{}")) is None


def test_all_mistakes_are_told_together_with_their_place():
    told = mistakes(
        {
            "base_url": "ftp://x",
            "colour": "red",
            "time_zone": "Mars",
            "unfold": "a[0]",
            "poll": {"min_seconds": 9, "max_seconds": 1, "usual_seconds": "often"},
            "task_id": {"pattern": "(", "model": "app"},
            "auth": {"headers": {"Authorization": "Bearer {key}"}},
            "calls": {"status": {"path": "v1/{id}", "method": "LOOK"}, "watch": {}},
            "answer": {
                "http": {"700": "failed", "404": "gone"},
                "classes": {"busy": [1], "refused": [1]},
                "otherwise": "x",
            },
            "status": {
                "at": "a..b",
                "types": "float",
                "words": {"finished": "done", "failed": ["x"], "queued": ["X"]},
            },
            "fields": {"progress": 5, "colour": "c"},
            "units": {"model": 2},
            "outputs": [{"type": "hologram"}],
            "follow_up": {"on": "done"},
        }
    )
    places = {mistake.removeprefix("dialect made-up: ").partition(": ")[0] for mistake in told}
    assert {
        "base_url",
        "colour",
        "time_zone",
        "unfold",
        "poll.recommended_seconds",
        "poll.usual_seconds",
        "task_id.pattern",
        "task_id.model",
        "auth.headers.Authorization",
        "calls.status.path",
        "calls.status.method",
        "calls.watch",
        "calls.follow_up",
        "answer.http.700",
        "answer.http.404",
        "answer.classes.refused",
        "answer.otherwise",
        "status.at",
        "status.types",
        "status.words.finished",
        "status.words.queued",
        "fields.progress",
        "fields.colour",
        "units.model",
        "outputs[0].at",
        "outputs[0].type",
        "follow_up.on",
    } <= places
    assert len(told) == len(set(told))


@pytest.mark.parametrize("word", ["unknown", "lost"])
def test_no_word_may_claim_our_own_conclusions(word):
    assert any(
        f"status.words.{word}" in told
        for told in mistakes({**SMALLEST, "status": {"at": "s", "words": {word: "x"}}})
    )


def test_a_document_without_a_status_is_a_mistake():
    assert mistakes({**SMALLEST, "status": {}}) == [
        "dialect made-up: status.at: missing, and no [answer.http] status takes its place"
    ]


@pytest.mark.parametrize(
    "document", [{}, {"calls": 1}, {"outputs": [1]}, {"outputs": {}}, {"status": {"guards": [{}]}}]
)
def test_a_malformed_document_is_told_not_tripped_over(document):
    assert mistakes(document)


def test_the_name_is_checked():
    assert any("name" in told for told in mistakes(SMALLEST, "Made Up"))


def test_what_is_no_toml_says_so():
    with pytest.raises(ConfigError, match="not TOML"):
        load_text("a = ", "made-up")
