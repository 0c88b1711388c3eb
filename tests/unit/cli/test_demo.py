"""How the demo chooses its port, its link and the files it serves."""

import io
import socket

import pytest
from click.testing import CliRunner

from bridge.cli import demo
from bridge.cli.main import main
from bridge.dialects.registry import load_preset


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_default_port_moves_on_to_a_free_one(taken, monkeypatch):
    monkeypatch.setattr(demo, "DEFAULT_PORT", taken)
    with demo._listener("127.0.0.1", None) as listener:
        assert listener.getsockname()[1] != taken


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_with_the_next_command(taken):
    for variables, arguments in (({}, ("--port", str(taken))), ({"BRIDGE_PORT": str(taken)}, ())):
        ended = CliRunner(env=variables).invoke(main, ["demo", *arguments])
        assert ended.exit_code == 1
        assert ended.stderr == (
            f"Error: cannot listen on 127.0.0.1:{taken}: Address already in use\n"
            f"Next: taskbridge demo --port {taken + 1}\n"
        )


@pytest.mark.parametrize(
    ("host", "public_url", "link"),
    [
        ("127.0.0.1", "", "http://127.0.0.1:{port}"),
        ("localhost", "", "http://localhost:{port}"),
        ("0.0.0.0", "", "http://127.0.0.1:{port}"),
        ("0.0.0.0", "http://shop.example:9000", "http://shop.example:9000"),
    ],
)
def test_the_link_is_one_that_a_browser_of_this_machine_can_open(host, public_url, link):
    with demo._listener(host, 0) as listener:
        made = demo.Demo(listener, host, speed=1, once=True, public_url=public_url, out=io.StringIO())
        assert made.link == link.format(port=made.port)


def test_the_samples_are_of_each_provider_and_end_in_every_way():
    assert {sample.upstream for sample in demo.SAMPLES} == set(demo.PROVIDERS)
    assert {sample.outcome for sample in demo.SAMPLES} == {"completed", "failed"}
    assert sum(sample.cancelled for sample in demo.SAMPLES) == 1
    assert max(sample.run_seconds for sample in demo.SAMPLES) > 60
    for sample in demo.SAMPLES:
        assert load_preset(sample.upstream).poll.min_seconds > 0
