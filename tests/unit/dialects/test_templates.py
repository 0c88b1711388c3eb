import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.templates import Body, Template, header_of, path_of, percent
from bridge.errors import InvalidRequest


@pytest.mark.parametrize(
    ("task_id", "path"),
    [
        ("task-1", "/v1/tasks/task-1"),
        ("a/b", "/v1/tasks/a%2Fb"),
        ("a?b=1&c#d", "/v1/tasks/a%3Fb%3D1%26c%23d"),
        ("50%", "/v1/tasks/50%25"),
        ("%2e%2e!", "/v1/tasks/%252e%252e%21"),
        (".?", "/v1/tasks/.%3F"),
        ("任务 1", "/v1/tasks/%E4%BB%BB%E5%8A%A1%201"),
        (".../admin..", "/v1/tasks/...%2Fadmin.."),
    ],
)
def test_an_id_stays_one_segment(task_id, path):
    assert path_of(Template("/v1/tasks/{task_id}"), {"task_id": task_id}) == path


def test_a_path_place_keeps_its_slashes():
    assert (
        path_of(Template("/v1beta/{name:path}"), {"name": "models/veo 3/operations/x"})
        == "/v1beta/models/veo%203/operations/x"
    )


@pytest.mark.parametrize("value", ["..", ".", "../admin", "a/../b", "a/.."])
def test_a_path_never_climbs(value):
    with pytest.raises(InvalidRequest):
        path_of(Template("/v1/{name:path}"), {"name": value})


@pytest.mark.parametrize("value", ["..", ".", "../../admin", "%2e%2e", "%252E.", "a%2F..", "a\\..", "%5c"])
def test_a_whole_segment_of_dots_is_refused(value):
    with pytest.raises(InvalidRequest):
        path_of(Template("/v1/{name}/cancel"), {"name": value})


def test_dots_are_refused_in_a_query_too():
    with pytest.raises(InvalidRequest):
        path_of(Template("/files?id={id}"), {"id": "a/../b"})


@pytest.mark.parametrize("value", ["/a", "a/", "a//b", "/"])
def test_a_path_place_takes_no_empty_segment(value):
    with pytest.raises(InvalidRequest):
        path_of(Template("/v1/{name:path}"), {"name": value})


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_value_never_becomes_syntax(value):
    assert not set(percent(value)) & set("/?#&=+ \r\n")


def test_a_body_takes_values_as_they_are():
    body = Body({"task_id": "{id}", "list": ["{id}", 1, True], "text": "{{not a place}}"})
    assert body.names == {"id"}
    assert body.fill({"id": 'a"b/{id}'}) == {
        "task_id": 'a"b/{id}',
        "list": ['a"b/{id}', 1, True],
        "text": "{not a place}",
    }


@pytest.mark.parametrize("text", ["{", "a}", "{Task}", "{a b}", "{{}"])
def test_a_lone_brace_is_a_mistake(text):
    with pytest.raises(ValueError, match="lone"):
        Template(text)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\x00", "日"])
def test_a_header_takes_no_control_characters(value):
    with pytest.raises(InvalidRequest):
        header_of(Template("Bearer {key}"), {"key": value})
