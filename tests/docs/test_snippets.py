"""What can be pasted works when it is pasted."""

import ast
import importlib
import itertools
import json
import re
import shutil
import subprocess
import tomllib

import aiohttp
import click
import pytest
from click.testing import CliRunner

from bridge.cli import demo, main
from bridge.config import limits
from bridge.config.load import load
from bridge.config.settings import OutputSettings, Settings, UpstreamSettings
from bridge.simulator.server import SimulatorOptions, start
from tests.conftest import missing
from tests.docs.pages import README, ROOT, snippets
from tests.fakes.certificates import Authority

EXAMPLE = ROOT / "bridge.example.toml"
COMMANDS = [
    (one.page, line.removeprefix("$ "))
    for one in snippets("sh", "console")
    for line in one.text.splitlines()
    if re.match(r"(\$ )?(\.venv/bin/)?(task)?bridge ", line)
]

BROWSER = """
const written = [];
globalThis.document = { querySelector: () => ({ append: (text) => written.push(text) }) };
globalThis.EventSource = class {
  constructor(url) { this.url = url; this.listeners = {}; globalThis.opened = this; }
  addEventListener(name, heard) { this.listeners[name] = heard; }
  close() { this.closed = true; }
};
SCRIPT
opened.onmessage({ data: '{"status":"processing","progress":42,"eta_seconds":6.5}' });
opened.onmessage({ data: '{"status":"unknown","progress":null,"eta_seconds":null}' });
const before = opened.closed ?? false;
opened.listeners.done();
console.log(JSON.stringify({ url: opened.url, written, before, after: opened.closed }));
"""


def script():
    return re.search(r"<script>\n(.*)</script>", snippets("html", page="README.md")[0].text, re.DOTALL)[1]


def node(*arguments, text=None):
    if shutil.which("node") is None:
        missing("node")
    return subprocess.run(["node", *arguments], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("snippet", snippets("json"), ids=str)
def test_json_parses(snippet):
    json.loads(snippet.text)


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_toml_parses(snippet):
    tomllib.loads(snippet.text)


SETTINGS = [one for one in snippets("toml") if one.page != "docs/dialects.md"]


@pytest.mark.parametrize("snippet", SETTINGS, ids=str)
def test_settings_are_accepted(snippet, tmp_path):
    path = tmp_path / "bridge.toml"
    path.write_text(snippet.text)
    if "tls_key_file" in snippet.text:
        Authority().pair().write(tmp_path)
    assert load(path, environment={}).upstreams


@pytest.mark.parametrize("snippet", snippets("python"), ids=str)
def test_python_compiles_and_imports_what_exists(snippet):
    compile(snippet.text, str(snippet), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for statement in ast.walk(ast.parse(snippet.text)):
        if isinstance(statement, ast.ImportFrom):
            module = importlib.import_module(statement.module)
            assert [name.name for name in statement.names if not hasattr(module, name.name)] == []


def test_the_browser_example_is_a_program(tmp_path):
    path = tmp_path / "snippet.js"
    path.write_text(script())
    checked = node("--check", str(path))
    assert checked.returncode == 0, checked.stderr


def test_the_browser_example_is_ten_lines():
    assert len(snippets("html", page="README.md")[0].text.splitlines()) <= 10


def test_the_browser_example_shows_each_state_and_closes_when_the_task_is_done(tmp_path):
    path = tmp_path / "page.cjs"
    path.write_text(BROWSER.replace("SCRIPT", script()))
    ran = node(str(path))
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["written"] == ["processing 42% 6.5 s left\n", "unknown --% \n"]
    assert (seen["before"], seen["after"]) == (False, True)


@pytest.mark.anyio
async def test_the_browser_example_asks_for_a_task_of_the_demo():
    first = demo.SAMPLES[0]
    async with start(SimulatorOptions(presets=demo.PROVIDERS)) as running, aiohttp.ClientSession() as http:
        link = f"{running.url}/{first.upstream}/v1/tasks"
        async with http.post(link, json=first.body, headers={"Authorization": "Bearer k"}) as answer:
            ref = f"{first.upstream}/{(await answer.json())['task_id']}"
    assert re.search(r'const task = "([^"]+)"', script())[1] == ref
    assert f"http://127.0.0.1:{demo.DEFAULT_PORT}/v1/tasks/${{task}}/events" in script()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_in_the_makefile(target):
    assert f"make {target} " in snippets("sh", page="README.md")[0].text


@pytest.mark.parametrize(
    "target",
    sorted({name for one in snippets("sh") for name in re.findall(r"^make (\w+)", one.text, re.MULTILINE)}),
)
def test_what_is_made_can_be_made(target):
    assert re.search(rf"^[\w ]*\b{target}\b[\w ]*:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_line_uses_options_that_exist(page, line):
    name, *arguments = line.partition("bridge ")[2].partition(" #")[0].split()
    below = arguments[:1] if isinstance(main.get_command(None, name), click.Group) else []
    told = CliRunner().invoke(main, [name, *below, "--help"])
    assert told.exit_code == 0, told.output
    options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert [option for option in options if not re.search(rf"{option}\b", told.output)] == []


def test_the_readme_names_the_commands_a_person_needs():
    wanted = ("serve", "check-config", "watch", "simulate", "submit")
    assert [name for name in wanted if not re.search(rf"`[^`\n]*\b{name}\b|taskbridge {name}", README)] == []


def test_the_example_configuration_passes_its_check(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"BRIDGE_{name.upper()}", raising=False)
    checked = CliRunner().invoke(main, ["check-config", "--json", "--config", str(EXAMPLE)])
    assert checked.exit_code == 0, checked.output
    names = json.loads(checked.output)
    upstreams = {name.split(".")[1] for name in names if name.startswith("upstreams.")}
    assert upstreams == {"qingbo", "vapi", "bytespike"}
    assert "put-your-key-here" not in checked.output


def test_the_example_configuration_has_every_setting_at_its_default_and_explains_it():
    text = EXAMPLE.read_text("utf-8")
    written = tomllib.loads(text)
    tables = written.pop("upstreams")
    left_out = {name for name, field in Settings.model_fields.items() if field.default is None}
    # What is written wins over `limits = "exposed"`, so these are comments.
    implied = set(limits.fill({"limits": "exposed", "auth": "token"}))
    assert (
        set(written) == set(Settings.model_fields) - {"outputs", "upstreams", "webhooks"} - left_out - implied
    )
    assert "# [webhooks.shop]" in text
    text, _, of_outputs = text.partition("# [outputs]\n")
    assert re.findall(r"^# (\w+) = ", of_outputs, re.MULTILINE) == list(OutputSettings.model_fields)
    assert [name for name in left_out if f"# {name} = " not in text] == []
    commented = tomllib.loads("\n".join(re.findall(r"^# (max_\w+ = \d+)$", text, re.MULTILINE)))
    defaults = {
        name: Settings.model_fields[name].get_default(call_default_factory=True)
        for name in (*written, *implied)
    }
    assert written | commented == defaults
    assert set(tables["qingbo"]) == set(UpstreamSettings.model_fields) - {
        "dialect",
        "dialect_file",
        "api_key_file",
        "follow_up_path",
        "callback_signing_key",
        "max_spend_per_caller_per_day",
    }
    optional = ("dialect_file = ", "api_key_file = ", "follow_up_path = ", "callback_signing_key = ")
    names = ('preset = "custom"', "max_spend_per_caller_per_day = ", *optional)
    assert all(f"# {name}" in text for name in names)
    lines = text.splitlines()
    assert [
        line
        for before, line in itertools.pairwise(lines)
        if " = " in line and line[0] != "#" and before[:1] != "#"
    ] == []
