"""A provider without a preset: its dialect in the configuration, and tested on the command line."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path

import jsonschema
import orjson
import pytest
from aiohttp import web

from tests.e2e.test_commands import run
from tests.harness import running_bridge

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text("utf-8")
ACME = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
PAYLOAD = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]
BROKEN = """journal = "memory"

[upstreams.acme]
preset = "custom"
api_key = "k"

[upstreams.acme.dialect]
base_url = "https://api.acme.example"

[upstreams.acme.dialect.calls.status]
path = "jobs/{task}"

[upstreams.acme.dialect.status]
at = "phase"
words.finished = "done"

[upstreams.beta]
preset = "custom"
dialect_file = "beta.toml"

[upstreams.gamma]
preset = "custom"

[upstreams.delta]
preset = "custom"
dialect_file = "kling.toml"
api_key = "only-one-half:"

[upstreams.qingbo.dialect]
title = "x"
"""
KLING = """base_url = "https://x.example"
[auth]
hook = "kling-jwt"
[calls.status]
path = "/{task_id}"
[status]
at = "s"
"""


@pytest.mark.parametrize("command", ["check-config", "serve"])
async def test_all_errors_in_a_dialect_are_reported_at_the_start_with_file_and_line(command, tmp_path):
    config = tmp_path / "bridge.toml"
    config.write_text(BROKEN)
    (tmp_path / "beta.toml").write_text("# nothing\n" + KLING.replace("kling-jwt", "nobody"))
    (tmp_path / "kling.toml").write_text(KLING)
    ended = await run(command, "--config", str(config))
    assert ended.code == 2
    assert ended.out == ""
    meanings = "queued, processing, input_required, completed, failed, cancelled, not_found"
    assert [line.removeprefix("  - ").replace(f"{tmp_path}/", "") for line in ended.err.splitlines()] == [
        "Configuration error: 7 problems",
        "bridge.toml:11: upstreams.acme.dialect.calls.status.path: must begin with /",
        "bridge.toml:11: upstreams.acme.dialect.calls.status.path: {task} is not known here (task_id)",
        f"bridge.toml:15: upstreams.acme.dialect.status.words.finished: 'finished' is not one of {meanings}",
        "beta.toml:4: auth.hook: 'nobody' is not one of kling-jwt",
        "upstreams.gamma.preset: custom needs a mapping: either [upstreams.gamma.dialect] or dialect_file",
        "upstreams.delta.api_key: the key must be access_key:secret_key, or a relay's key without a colon",
        'upstreams.qingbo.dialect: needs preset = "custom"',
        *(["Next: taskbridge check-config --config bridge.toml"] if command == "serve" else []),
    ]


@asynccontextmanager
async def acme_service(keys):
    async def lookup(request):
        keys.append(request.headers.get("Authorization"))
        asked = await request.json()
        job = orjson.loads(PAYLOAD)["job"] | {"id": int(asked["job"])}
        return web.json_response({"code": 0, "job": job})

    app = web.Application()
    app.router.add_post("/api/jobs/lookup", lookup)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("where", ["table", "file"])
async def test_a_provider_is_served_from_a_mapping_in_the_configuration(where, tmp_path, http):
    (tmp_path / "acme.toml").write_text(ACME)
    mapping = {"dialect": tables(ACME)} if where == "table" else {"dialect_file": str(tmp_path / "acme.toml")}
    keys: list[str | None] = []
    async with acme_service(keys) as url:
        wishes = {"preset": "custom", "base_url": url, "api_key": "k", **mapping}
        async with (
            running_bridge({"acme": wishes}) as bridge,
            http.get(f"{bridge.url}/v1/tasks/acme/88") as answer,
        ):
            state = await answer.json()
    assert (state["status"], state["upstream_status"], state["progress"]) == ("processing", "In Progress", 45)
    assert keys[0] == "Token k"


def tables(text):
    import tomllib

    return tomllib.loads(text)


async def test_a_config_without_secrets_names_the_mapping_and_hides_its_inside(tmp_path):
    config = tmp_path / "bridge.toml"
    secret = ACME.replace("Token {api_key}", "Token literally-secret")
    (tmp_path / "acme.toml").write_text(secret)
    config.write_text('journal = "memory"\n[upstreams.acme]\npreset = "custom"\ndialect_file = "acme.toml"\n')
    ended = await run("check-config", "--json", "--config", str(config))
    assert ended.code == 0
    assert "literally-secret" not in ended.out
    assert orjson.loads(ended.out)["upstreams.acme.dialect"] == {
        "value": {"title": "Acme", "base_url": "https://api.acme.example"},
        "source": "file",
    }


@pytest.fixture
def files(tmp_path):
    (tmp_path / "acme.toml").write_text(ACME)
    (tmp_path / "payload.json").write_text(PAYLOAD)
    return tmp_path


async def explained(files, payload, *arguments, mapping="acme.toml"):
    file = files / "given.json"
    file.write_bytes(payload if isinstance(payload, bytes) else orjson.dumps(payload))
    known = str(files / mapping) if mapping.endswith(".toml") else mapping
    return await run("dialect", "test", known, "--payload", str(file), *arguments)


async def test_a_payload_is_explained_field_by_field(files):
    ended = await explained(files, PAYLOAD.encode())
    assert ended.code == 0
    for told in (
        'job.phase = "In Progress": match',
        '"In Progress" means processing',
        "code = 0: means success",
        "job.done = 0.45: match, read as 45.0",
        "job.reason: nothing found",
        "gives video https://cdn.acme.example/a.mp4",
    ):
        assert told in ended.out


@pytest.mark.parametrize(
    ("payload", "arguments", "told"),
    [
        ({"code": 4004, "msg": "gone"}, [], ["TaskNotFound", "task_not_found", "gone", "means not_found"]),
        (b"<html>", ["--status", "502"], ["is not a JSON object", "UpstreamUnavailable", "502"]),
        (b"<html>", [], ["UnreadablePayload"]),
        ({"code": 4290}, ["--header", "Retry-After: 7"], ["UpstreamBusy", "retry_after", "7 s"]),
        ({"answer": {"status": 401, "headers": {}, "body": {}}}, [], ["CredentialRefused", "HTTP 401"]),
    ],
)
async def test_an_error_is_named_and_exits_1(files, payload, arguments, told):
    ended = await explained(files, payload, *arguments)
    assert ended.code == 1
    assert [one for one in told if one not in ended.out] == []


async def test_the_answer_to_a_submit_is_explained_with_its_options(files):
    mapping = ACME + '\n[submit.task_id]\nneeds = { id = "job.id" }\nid = "{queue}/{id}"\n'
    (files / "own.toml").write_text(mapping)
    ended = await explained(
        files, {"job": {"id": 7}}, "--submit", "--option", "queue=fast", mapping="own.toml"
    )
    assert ended.code == 0, ended.err
    assert 'id                  "fast/7"' in ended.out
    assert re.search(r"^reads as\n  status +queued$", ended.out, re.MULTILINE)


async def test_a_preset_is_named_and_listed(files):
    ended = await explained(files, {"task_id": "1", "status": "brewing"}, mapping="qingbo")
    assert ended.code == 0
    assert '"brewing" is not mapped' in ended.out
    listed = await run("dialect", "list")
    assert listed.code == 0
    assert re.search(r"^qingbo +https://www\.qingbo\.dev +qingbo\.dev", listed.out, re.MULTILINE)


async def test_the_schema_of_a_dialect_file_is_printed(files):
    printed = await run("dialect", "schema")
    assert printed.code == 0, printed.err
    schema = orjson.loads(printed.out)
    assert schema["required"] == ["base_url", "calls"]
    assert schema["properties"]["base_url"]["description"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(tables(ACME))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody.toml"], "No such file"),
        (["broken.toml"], "broken.toml:1: base_url"),
        (["acme.toml", "--header", "oops"], "has no ':'"),
        (["acme.toml", "--status", "42"], "Invalid value"),
    ],
)
async def test_bad_usage_and_broken_mappings_exit_2(files, arguments, told):
    (files / "broken.toml").write_text('base_url = "ftp://x"\n')
    file, *more = arguments
    ended = await run("dialect", "test", str(files / file), "--payload", str(files / "payload.json"), *more)
    assert ended.code == 2
    assert told in ended.err
