"""The commands `bridge dialect test` and `bridge dialect list`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import click

if TYPE_CHECKING:
    from bridge.dialects.base import HttpResponse
    from bridge.dialects.dialect import Dialect

# Commands import late: what a dialect needs takes longer than `bridge --help` should.

_TROUBLE = 1
_MISTAKES = 2


@click.group()
def dialect() -> None:
    """Try out how a provider's answers are read."""


@dialect.command("list")
def list_() -> None:
    """Print the presets: name, provider, address."""
    from bridge.dialects.registry import load_preset, preset_names  # noqa: PLC0415 - see above

    presets = [load_preset(name) for name in preset_names()]
    width = max(len(preset.name) for preset in presets)
    for preset in presets:
        click.echo(f"{preset.name:<{width}}  {preset.base_url}  {preset.title}")


@dialect.command()
@click.argument("file")
@click.option(
    "--payload",
    type=click.File("rb"),
    required=True,
    help="The provider's answer: its body, or a recording with `answer` in it. - for standard input.",
)
@click.option("--status", type=click.IntRange(100, 599), help="HTTP status; 200 unless the recording says.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header of the answer.")
@click.option("--submit", is_flag=True, help="Read it as the answer to a submit.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of that submit.")
@click.option("--task-id", help="The id that was asked for.")
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
    """Read an answer with a mapping and tell, field by field, why it reads so.

    FILE is a TOML file or the name of a preset. Exit code: 0 it shows a task, 1 it is a trouble or cannot be
    read, 2 bad usage or mistakes in the mapping.
    """
    from bridge.dialects.base import Submission  # noqa: PLC0415 - see above
    from bridge.dialects.explain import explain  # noqa: PLC0415 - see above

    made = _load(file)
    recording = _recording(payload.read())
    given = _texts(recording.get("options")) | _pairs(options, "=", "--option")
    submission = Submission(body=b"{}", options=given) if submit else None
    answer = _answer(recording["answer"], status, _pairs(headers, ":", "--header"))
    asked = task_id or _texts(recording).get("task_id")
    explanation = explain(made, answer, submission=submission, task_id=asked)
    click.echo("\n".join(explanation.lines))
    sys.exit(0 if explanation.trouble is None else _TROUBLE)


def _load(file: str) -> Dialect:
    from bridge.core.task import UPSTREAM_NAME  # noqa: PLC0415 - see above
    from bridge.dialects.custom import read_file  # noqa: PLC0415 - see above
    from bridge.dialects.registry import load_document, load_preset, preset_names  # noqa: PLC0415 - see above

    path = Path(file)
    if file in preset_names() and not path.exists():
        return load_preset(file)
    mistakes: list[str] = []
    document = read_file(path, mistakes)
    if mistakes or document is None:
        _refuse(mistakes)
    return load_document(document, path.stem if UPSTREAM_NAME.fullmatch(path.stem) else "custom")


def _refuse(mistakes: list[str]) -> NoReturn:
    from bridge.errors import ConfigError  # noqa: PLC0415 - see above

    click.echo(str(ConfigError(mistakes)), err=True)
    sys.exit(_MISTAKES)


def _recording(text: bytes) -> dict[str, Any]:
    """A recording: what was recorded, or the bare body made one."""
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
    given = _texts(recorded.get("headers")) | headers
    lower = {name.lower(): value for name, value in given.items()}
    told = recorded.get("status")
    told = told if isinstance(told, int) and 100 <= told < 600 else 200
    return HttpResponse(status or told, lower, body if isinstance(body, bytes) else orjson.dumps(body))


def _texts(value: object) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(key): one for key, one in items if isinstance(one, str)}


def _pairs(texts: tuple[str, ...], sign: str, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, found, value = text.partition(sign)
        if not found or not name.strip():
            raise click.BadParameter(f"{text!r} has no {sign!r}", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs
