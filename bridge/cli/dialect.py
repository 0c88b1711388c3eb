"""The commands `taskbridge dialect test` and `taskbridge dialect list`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from bridge.dialects.base import HttpResponse
    from bridge.dialects.mapping import MappedDialect

# Commands import late: the imports of a dialect take longer than `taskbridge --help` should.

_FAILURE = 1
_INVALID_MAPPING = 2


@click.group()
def dialect() -> None:
    """Test how a provider's responses are mapped."""


@dialect.command("list")
def list_() -> None:
    """Print the presets: name, base URL, provider."""
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
    help="The provider's response: its body, or a recording with the key `answer`; - for standard input.",
)
@click.option(
    "--status", type=click.IntRange(100, 599), help="HTTP status; defaults to the recording's, else 200."
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="A header of the response; may be repeated.",
)
@click.option("--submit", is_flag=True, help="Treat it as the response to a submit.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the submit; may be repeated.",
)
@click.option("--task-id", help="Task id that the request was about.")
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
    """Map a response and explain the result field by field.

    FILE is a TOML file or the name of a preset. Exit code: 0 for a task, 1 for an error response or an
    unreadable one, 2 for bad usage or an invalid mapping.
    """
    from bridge.dialects.base import Submission  # noqa: PLC0415 - see above
    from bridge.dialects.explain import explain  # noqa: PLC0415 - see above

    mapping = _load(file)
    recording = _recording(payload.read())
    submit_options = _texts(recording.get("options")) | _pairs(options, "=", "--option")
    submission = Submission(body=b"{}", options=submit_options) if submit else None
    answer = _answer(recording["answer"], status, _pairs(headers, ":", "--header"))
    requested = task_id or _texts(recording).get("task_id")
    explanation = explain(mapping, answer, submission=submission, task_id=requested)
    click.echo("\n".join(explanation.lines))
    sys.exit(0 if explanation.trouble is None else _FAILURE)


def _load(file: str) -> MappedDialect:
    from bridge.core.task import UPSTREAM_NAME  # noqa: PLC0415 - see above
    from bridge.dialects.custom import read_file  # noqa: PLC0415 - see above
    from bridge.dialects.registry import load_document, load_preset, preset_names  # noqa: PLC0415 - see above
    from bridge.errors import ConfigError  # noqa: PLC0415 - see above

    path = Path(file)
    if file in preset_names() and not path.exists():
        return load_preset(file)
    errors: list[str] = []
    document = read_file(path, errors)
    if errors or document is None:
        click.echo(str(ConfigError(errors)), err=True)
        sys.exit(_INVALID_MAPPING)
    return load_document(document, path.stem if UPSTREAM_NAME.fullmatch(path.stem) else "custom")


def _recording(text: bytes) -> dict[str, Any]:
    """The recording in `text`; a bare body becomes the answer of one."""
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
    all_headers = _texts(recorded.get("headers")) | headers
    lower_case = {name.lower(): value for name, value in all_headers.items()}
    code = recorded.get("status")
    code = code if isinstance(code, int) and 100 <= code < 600 else 200
    return HttpResponse(status or code, lower_case, body if isinstance(body, bytes) else orjson.dumps(body))


def _texts(value: object) -> dict[str, str]:
    items = value.items() if isinstance(value, dict) else ()
    return {str(key): text for key, text in items if isinstance(text, str)}


def _pairs(texts: tuple[str, ...], sign: str, option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition(sign)
        if not separator or not name.strip():
            raise click.BadParameter(f"{text!r} must be NAME{sign}VALUE", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs
