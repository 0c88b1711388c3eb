"""No id, answer or caller can lead a call, let alone a credential, to a host that is not the provider's."""

import pytest

from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.hosts import Hosts, host_of
from bridge.dialects.registry import load_document, load_preset, preset_names
from bridge.errors import ConfigError, InvalidRequest, UpstreamError

REGIONS = {
    "base_url": "https://api.acme.example",
    "hosts": ["*.acme.example"],
    "task_id": {"pattern": r"(?P<host>[^/]+)/(?P<id>.+)"},
    "calls": {
        "status": {"base_url": "https://{host}", "path": "/{id}"},
        "cancel": {"base_url": "https://cancel.acme.test/v1", "path": "/{id}"},
    },
    "status": {"at": "status"},
}


def made(**changes):
    return load_document({**REGIONS, **changes}, "made-up")


def told(**changes):
    with pytest.raises(ConfigError) as caught:
        made(**changes)
    return [mistake.removeprefix("dialect made-up: ") for mistake in caught.value.errors]


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("https://api.acme.example", True),
        ("https://API.Acme.Example:8443/v1", True),
        ("https://eu.acme.test", True),
        ("https://a.b.acme.test/x", True),
        ("https://acme.test", False),
        ("https://evilacme.test", False),
        ("https://eu.acme.test.evil.example", False),
        ("https://eu.acme.test@evil.example", False),
        ("https://evil.example/#.acme.test", False),
        ("https://evil.example\\.acme.test", False),
        ("ftp://api.acme.example", False),
        ("https://api.acme.example:port", False),
        ("https://", False),
        ("//api.acme.example", False),
        ("https://[::1", False),
        ("", False),
    ],
)
def test_a_host_is_on_the_list_or_below_it(url, own):
    assert Hosts(["api.acme.example", "*.acme.test"]).own(url) is own


def test_an_empty_list_holds_nobody():
    assert not Hosts([]).own("https://x.example")
    assert host_of("https://user:password@x.example") is None


def test_a_call_goes_to_listed_hosts_whatever_the_pattern_lets_through():
    assert made().status_request("eu.acme.example/1").base_url == "https://eu.acme.example"
    for task_id in (
        "169.254.169.254/latest",
        "evil.example/1",
        "acme.example.evil.example/1",
        "a@evil.example/1",
        "evil.example:80/1",
        "localhost/1",
    ):
        with pytest.raises(InvalidRequest):
            made().status_request(task_id)


def test_an_address_without_places_is_the_authors_own_word():
    assert made().cancel_request("eu.acme.example/1").base_url == "https://cancel.acme.test/v1"
    assert made().hosts.own("https://cancel.acme.test")


def test_a_part_of_the_task_id_may_choose_a_port():
    calls = {"status": {"base_url": "http://127.0.0.1:{host}", "path": "/{id}"}}
    hosts = ["127.0.0.1"]
    assert made(calls=calls, hosts=hosts).status_request("8080/1").base_url == "http://127.0.0.1:8080"


def test_a_host_with_places_needs_a_list():
    assert told(hosts=[]) == [
        "calls.status.base_url: its host has places: list in `hosts` which hosts may result"
    ]


@pytest.mark.parametrize("name", ["https://x.example", "x.example/v1", "*", "*.*", "x example", "-x.example"])
def test_what_is_no_host_name_is_a_mistake(name):
    assert told(hosts=[name, "*.acme.example"])[0].startswith(f"hosts: {name!r} is not a host name")


@pytest.mark.parametrize(
    "base_url", ["{host}", "ftp://{host}", "https://{host}/?x=", "https://user@{host}", "https:///{host}"]
)
def test_an_address_of_a_call_is_an_address(base_url):
    calls = {"status": {"base_url": base_url, "path": "/{id}"}}
    assert "calls.status.base_url: must be an http(s) URL without a query" in told(calls=calls)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "task_id"),
        ("alias", "alias"),
        ("alias", "host"),
        ("submit", "endpoint"),
        ("submit", "host"),
        ("follow_up", "file"),
    ],
)
def test_only_parts_of_the_task_id_may_choose_a_host(name, value):
    calls = {**REGIONS["calls"], name: {"base_url": f"https://{{{value}}}.acme.example", "path": "/x"}}
    follow_up = {"needs": {"file": "file"}} if name == "follow_up" else None
    mistakes = told(calls=calls, **({"follow_up": follow_up} if follow_up else {}))
    assert mistakes[0].startswith(f"calls.{name}.base_url: {{{value}}} is not known here")


def test_a_returned_address_is_never_where_the_next_call_goes():
    evil = "https://evil.example/steal"
    body = b'{"task_id":"t","status":"completed","polling_url":"%b","urls":{"get":"%b"},"file_id":"%b"}'
    for name in preset_names():
        dialect = load_preset(name)
        answer = HttpResponse(200, {"location": evil}, body.replace(b"%b", evil.encode()))
        for task_id in ("t", evil, "fal-ai/flux/1"):
            try:
                follow = dialect.read_status(answer, task_id).follow
            except UpstreamError:
                continue
            assert follow is None or follow.base_url is None or dialect.hosts.own(follow.base_url)
            assert follow is None or not follow.path.startswith(("http", "//"))


def test_a_submitted_task_is_asked_for_at_the_providers_own_host():
    submission = Submission(body=b"{}")
    seen = load_preset("qingbo").read_submitted(
        HttpResponse(200, {}, b'{"task_id":"https://evil.example/x","status":"queued"}'), submission
    )
    request = load_preset("qingbo").status_request(seen.task_id)
    assert (request.base_url, request.path) == (None, "/v1/tasks/https%3A%2F%2Fevil.example%2Fx")
