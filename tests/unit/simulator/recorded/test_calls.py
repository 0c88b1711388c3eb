import pytest

from bridge.simulator.recorded.calls import ProviderRequest, read_call


def call(**raw):
    return read_call("status", raw)


@pytest.mark.parametrize(
    ("raw", "incoming", "values"),
    [
        ({"path": "/v1/tasks/{task_id}"}, {"path": "/v1/tasks/a%2Fb"}, {"task_id": "a/b"}),
        (
            {"path": "/{app:path}/requests/{id}/status"},
            {"path": "/fal-ai/flux/requests/7/status"},
            {"app": "fal-ai/flux", "id": "7"},
        ),
        ({"path": "/q?task_id={task_id}"}, {"path": "/q", "query": {"task_id": "7"}}, {"task_id": "7"}),
        (
            {"path": "/q", "query": {"id": "{task_id}", "logs": "1"}},
            {"path": "/q", "query": {"id": "7"}},
            {"task_id": "7"},
        ),
        (
            {"path": "/q", "method": "POST", "body": {"by": {"name": "models/{task_id}"}, "deep": True}},
            {"path": "/q", "method": "POST", "body": {"by": {"name": "models/7"}}},
            {"task_id": "7"},
        ),
        ({"path": "/m/{model}:fetch"}, {"path": "/m/veo:fetch"}, {"model": "veo"}),
    ],
)
def test_the_values_of_a_call_are_read_back_from_it(raw, incoming, values):
    match = call(**raw).match(ProviderRequest(**{"method": "GET"} | incoming))
    assert match is not None
    assert match.values == values


@pytest.mark.parametrize(
    ("raw", "incoming"),
    [
        ({"path": "/v1/tasks/{task_id}"}, {"path": "/v1/tasks/a/b"}),
        ({"path": "/v1/tasks/{task_id}"}, {"path": "/v1/tasks/"}),
        ({"path": "/v1/tasks/{task_id}"}, {"path": "/v1/tasks/7", "method": "POST"}),
        ({"path": "/q?task_id={task_id}"}, {"path": "/q"}),
        ({"path": "/q", "body": {"id": "{task_id}"}}, {"path": "/q", "body": {"other": "7"}}),
        ({"path": "/a.b"}, {"path": "/aXb"}),
    ],
)
def test_another_call_is_not_taken_for_this_one(raw, incoming):
    assert call(**raw).match(ProviderRequest(**{"method": "GET"} | incoming)) is None


def test_the_call_that_says_more_about_itself_is_the_likelier():
    plain, stream = call(path="/r/{id}"), call(path="/r/{id}?stream=true")
    asked = ProviderRequest(method="GET", path="/r/7", query={"stream": "true"})
    assert stream.match(asked).score > plain.match(asked).score
    asked = ProviderRequest(method="GET", path="/r/7")
    assert stream.match(asked).score < plain.match(asked).score
