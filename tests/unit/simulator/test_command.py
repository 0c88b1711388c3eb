import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from click.testing import CliRunner

from bridge.simulator.command import simulate


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_and_ends_well(number):
    command = [
        sys.executable,
        "-m",
        "bridge.simulator",
        "--port",
        "0",
        "--seed",
        "3",
        "--fault",
        "html,slow:1",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("simulator listening on http://127.0.0.1:")
        url = line.split()[-1]
        with urllib.request.urlopen(f"{url}/_sim/faults") as response:
            assert response.read() == b'{"*":["html","slow"]}'
        process.send_signal(number)
        out, err = process.stdout.read(), process.stderr.read()
        process.wait(10)
    assert (process.returncode, err) == (0, "")
    for provider in ("qingbo", "vapi", "bytespike"):
        assert f"{url}/{provider}" in out


@pytest.mark.parametrize(
    "error", [["--fault", "x"], ["--framing", "x"], ["--speed", "0"], ["--fault-rate", "2"], ["--port", "x"]]
)
def test_options_that_make_no_sense_are_refused(error):
    result = CliRunner().invoke(simulate, error)
    assert result.exit_code == 2


def test_it_lists_what_can_be_simulated():
    result = CliRunner().invoke(simulate, ["--list"])
    assert result.exit_code == 0
    listed = dict(line.split(None, 1) for line in result.output.splitlines())
    assert listed["qingbo"] == "hand-written"
    assert listed["runway"] == "from recordings"
    assert listed["bfl"] == "from recordings"


def test_a_preset_that_cannot_be_simulated_is_refused_with_the_reason():
    preset, why = "nonesuch", "unknown preset"
    result = CliRunner().invoke(simulate, ["--preset", "runway", "--preset", preset])
    assert result.exit_code == 2
    assert preset in result.output
    assert why in " ".join(result.output.split())


def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(simulate, ["--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "cannot listen" in result.output
