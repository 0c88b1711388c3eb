"""What may go into a submit: options that stay what they are, and where a callback address is put."""

import json

import pytest

from bridge.dialects.base import Submission
from bridge.dialects.registry import load_preset
from bridge.errors import InvalidRequest

HERE = "https://bridge.example/v1/callbacks/x/secret"
OPTIONS = [
    ("veo", "model", ["", "veo/../../files", "a:delete", "a?key=1", "a" * 129]),
    ("bfl", "model", ["", "../v2/x", "flux-2-pro/finetune", "flux?x=1", "FLUX"]),
    ("wavespeed", "model", ["", "flux-dev", "wavespeed-ai/../predictions", "a/b?webhook=x", "a/b#c"]),
    ("runpod", "endpoint", ["", "a/b", "a.b", "a b", "a" * 65]),
    ("stability", "endpoint", ["", "image-to-video/result", "stable-image/generate/core"]),
]
PLACES = [
    ("ark", "callback_url"),
    ("bfl", "webhook_url"),
    ("kie", "callBackUrl"),
    ("piapi", "config.webhook_config.endpoint"),
    ("runpod", "webhook"),
]


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [(name, option, value) for name, option, values in OPTIONS for value in values],
)
def test_an_option_cannot_lead_a_submit_elsewhere(name, option, value):
    with pytest.raises(InvalidRequest):
        load_preset(name).submit_request(Submission(body=b"{}", options={option: value}))


@pytest.mark.parametrize(("name", "option"), [(name, option) for name, option, _ in OPTIONS])
def test_an_option_the_submit_needs_is_asked_for_by_name(name, option):
    with pytest.raises(InvalidRequest, match=option):
        load_preset(name).submit_request(Submission(body=b"{}"))


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_a_callback_address_stands_where_the_provider_looks_for_it(name, place):
    made = json.loads(load_preset(name).with_callback(Submission(body=b'{"a":1}'), HERE).body)
    assert made.pop("a") == 1
    for key in place.split("."):
        assert list(made) == [key]
        made = made[key]
    assert made == HERE


def test_wavespeed_is_told_in_the_query():
    told = load_preset("wavespeed").with_callback(Submission(body=b"{}", options={"model": "a/b"}), HERE)
    assert (told.body, told.options) == (b"{}", {"model": "a/b", "webhook": HERE})


@pytest.mark.parametrize("name", ["veo", "stability", "parallel", "openai", "openai-videos"])
def test_a_provider_that_takes_no_address_is_given_none(name):
    submission = Submission(body=b'{"a":1}')
    assert load_preset(name).with_callback(submission, HERE) == submission
