"""The commands `taskbridge dialect test`, `list` and `schema`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from bridge.dialects.base import HttpResponse
    from bridge.dialects.dialect import Dialect

# Commands import late: loading what a dialect needs takes longer than `--help` should.

_ERROR = 1
_BAD_USAGE = 2


@click.group()
def dialect() -> None:
    """List presets, print the schema of dialect files, and test how responses are read."""


@dialect.command("list")
def list_() -> None:
    """List the presets: name, address, provider."""
    from bridge.dialects.registry import load_preset, preset_names  # noqa: PLC0415 - see above

    presets = [load_preset(name) for name in preset_names()]
    width = max(len(preset.name) for preset in presets)
    for preset in presets:
        click.echo(f"{preset.name:<{width}}  {preset.base_url}  {preset.title}")


@dialect.command()
def schema() -> None:
    """Print the JSON schema of a dialect file, for completion in editors."""
    import orjson  # noqa: PLC0415 - see above

    from bridge.dialects.schema import json_schema  # noqa: PLC0415 - see above

    click.echo(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())


@dialect.command()
@click.argument("file")
@click.option(
    "--payload",
    type=click.File("rb"),
    required=True,
    help="The provider's response: its body, or a recording with `answer` in it. - for standard input.",
)
@click.option(
    "--status",
    type=click.IntRange(100, 599),
    help="HTTP status of the response; default: the recording's, else 200.",
)
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the response.")
@click.option("--submit", is_flag=True, help="Read it as the response to a submit.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of that submit.")
@click.option("--task-id", help="The requested task id.")
def test(
    file: str,
    *,
    payload: BinaryIO,
    status: int | None,
    headers: tuple[str, ...],
    submit: bool,
    options: tuple[str, ...],
    task_id: str | None,
) -> None:
    """Read a response with a dialect and explain the result, field by field.

    FILE is a TOML file or the name of a preset. Exit code: 0 the response shows a task, 1 it is an error or
    cannot be read, 2 bad usage or errors in the dialect.
    """
    from bridge.dialects.base import Submission  # noqa: PLC0415 - see above
    from bridge.dialects.explain import explain  # noqa: PLC0415 - see above

    loaded = _load(file)
    recording = _recording(payload.read())
    values = _strings(recording.get("options")) | _pairs(options, "=", "--option")
    submission = Submission(body=b"{}", options=values) if submit else None
    answer = _answer(recording["answer"], status, _pairs(headers, ":", "--header"))
    task_id = task_id or _strings(recording).get("task_id")
    explanation = explain(loaded, answer, submission=submission, task_id=task_id)
    click.echo("\n".join(explanation.lines))
    sys.exit(0 if explanation.error is None else _ERROR)


def _load(file: str) -> Dialect:
    from bridge.core.suggestion import did_you_mean  # noqa: PLC0415 - see above
    from bridge.core.task import UPSTREAM_NAME  # noqa: PLC0415 - see above
    from bridge.dialects.custom import read_file  # noqa: PLC0415 - see above
    from bridge.dialects.registry import load_document, load_preset, preset_names  # noqa: PLC0415 - see above
    from bridge.errors import ConfigError  # noqa: PLC0415 - see above

    path = Path(file)
    if file in preset_names() and not path.exists():
        return load_preset(file)
    errors: list[str] = []
    document = read_file(path, errors)
    if errors and not path.exists() and not path.suffix:
        errors = [f"{error}{did_you_mean(file, preset_names())}" for error in errors]
    if errors or document is None:
        click.echo(str(ConfigError(errors)), err=True)
        sys.exit(_BAD_USAGE)
    return load_document(document, path.stem if UPSTREAM_NAME.fullmatch(path.stem) else "custom")


def _recording(text: bytes) -> dict[str, Any]:
    """A recording as it is; a bare body as a recording of it."""
    from bridge.dialects.values import object_from  # noqa: PLC0415 - see above

    recording = object_from(text) or {}
    answer = recording.get("answer")
    return recording if isinstance(answer, dict) and "body" in answer else {"answer": {"body": text}}


def _answer(recorded: dict[str, Any], status: int | None, headers: dict[str, str]) -> HttpResponse:
    import orjson  # noqa: PLC0415 - see above

    from bridge.dialects.base import HttpResponse  # noqa: PLC0415 - see above

    body = recorded["body"]
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    elif not isinstance(body, bytes):
        body = orjson.dumps(body)
    all_headers = _strings(recorded.get("headers")) | headers
    if status is None:
        status = recorded.get("status")
        status = status if isinstance(status, int) and 100 <= status < 600 else 200
    return HttpResponse(status, {name.lower(): value for name, value in all_headers.items()}, body)


def _strings(value: object) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(key): item for key, item in items if isinstance(item, str)}


def _pairs(texts: tuple[str, ...], separator: str, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, found, value = text.partition(separator)
        if not found or not name.strip():
            raise click.BadParameter(f"{text!r} has no {separator!r}", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs
