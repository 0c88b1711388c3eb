"""The command `taskbridge init`: writes a commented configuration for one or several presets."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bridge.cli.configuration import PROGRAM, print_next, with_config

if TYPE_CHECKING:
    from bridge.dialects.dialect import Dialect

# Commands import late: loading what a dialect needs takes longer than `--help` should.

NOT_WRITTEN = 1
FILE = "bridge.toml"
MINE = "my-provider"
# A value for each option that a submit needs; the comment and the printed command show it.
OPTION_EXAMPLES = {
    "bfl": "model=flux-2-pro",
    "dashscope": "endpoint=video-generation/video-synthesis",
    "fal": "endpoint=fal-ai/flux/dev",
    "kling": "endpoint=videos/text2video",
    "luma": "endpoint=generations",
    "minimax-v2": "endpoint=video_generation",
    "replicate": "endpoint=predictions",
    "runpod": "endpoint=2yt7tyr5a7x3kq",
    "runway": "endpoint=image_to_video",
    "stability": "endpoint=image-to-video",
    "vapi": "endpoint=minimax/v1/video_generation",
    "veo": "model=veo-3.1-generate-preview",
    "vidu": "endpoint=img2video",
    "wavespeed": "model=wavespeed-ai/flux-dev",
}
# Where the preset's own address is not the one to use.
BASE_URLS = {"openai-videos": "https://gateway.example/v1"}
KEY_FORMS = {"kling": "access_key:secret_key"}

HEAD = """\
# Configuration of the task event bridge, written by `{command}`.
#
#   {program} check-config   shows what is in use
#   {program} serve          runs the bridge; it finds bridge.toml in the working directory
#
# A setting in a comment is at its default, or an example. Variables such as BRIDGE_PORT override this file.

# Where the bridge listens. For other machines it also needs `auth`.
# host = "127.0.0.1"
# port = 8080

# Web pages on other origins that may call it, such as the one of your development server.
# allowed_origins = ["http://localhost:5173"]

# Where states are recorded, so that a restart loses nothing.
# journal = "sqlite:./bridge.db"

# Hosts of your own network that webhooks may reach, over http:// too.
# private_hosts = ["127.0.0.1"]

# Your back end can get the end of each task as a signed webhook. Add its URL while the bridge runs:
#   {program} webhooks add URL
"""

CUSTOM_TABLE = """
# A provider without a preset. Replace the name (a-z, then a-z, 0-9 or -) and everything below it.
# `{program} dialect test` explains how a response is read; `{program} dialect schema` lists all keys.
[upstreams.{name}]
preset = "custom"
# The API key is in the environment, not in this file: {variable}
# Instead of it, a file that is read again when it changes:
# api_key_file = "/run/secrets/{name}"

[upstreams.{name}.dialect]
title = "My provider"
docs = ["https://docs.provider.example/tasks"]
base_url = "https://api.provider.example"

[upstreams.{name}.dialect.auth.headers]
Authorization = "Bearer {{api_key}}"

# How often to poll, in seconds.
[upstreams.{name}.dialect.poll]
min_seconds = 2
max_seconds = 15
recommended_seconds = 5

[upstreams.{name}.dialect.calls.status]
path = "/v1/tasks/{{task_id}}"

[upstreams.{name}.dialect.calls.submit]
method = "POST"
path = "/v1/tasks"

# Where the status is in a response, and what its words mean.
[upstreams.{name}.dialect.status]
at = ["status"]

[upstreams.{name}.dialect.status.words]
queued = ["pending"]
processing = ["running"]
completed = ["done"]
failed = ["error"]

[upstreams.{name}.dialect.fields]
task_id = "id"
progress = "progress"

[[upstreams.{name}.dialect.outputs]]
at = "result.url"
"""


@click.command()
@click.argument("presets", nargs=-1, metavar="PRESET...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=FILE,
    show_default=True,
    help="File to write; - for standard output.",
)
@click.option("--stdout", is_flag=True, help="Print it instead, as with `--output -`.")
def init(presets: tuple[str, ...], output: Path, *, stdout: bool) -> None:
    """Write a commented bridge.toml for the providers PRESET..., and name the variables for their keys.

    `taskbridge dialect list` lists the presets; `custom` is for a provider that has none. A file that exists
    is never changed; to add a provider to one: taskbridge init PRESET --stdout >> bridge.toml

    Exit code: 0 when written, 1 if the file exists or cannot be written, 2 for an unknown preset.
    """
    from bridge.dialects.registry import CUSTOM  # noqa: PLC0415 - commands import late

    names = list(dict.fromkeys(presets))
    _check(names)
    text = configuration(names)
    if stdout or str(output) == "-":
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        click.echo(f"Error: {output} exists and is left as it is", err=True)
        append = f" >> {shlex.quote(str(output))}" if _can_be_added(names, output) else ""
        print_next(f"{PROGRAM} init {shlex.join(names)} --stdout{append}")
        sys.exit(NOT_WRITTEN)
    except OSError as error:
        click.echo(f"Error: cannot write {output}: {error.strerror}", err=True)
        print_next(f"{PROGRAM} init {shlex.join(names)} --stdout")
        sys.exit(NOT_WRITTEN)
    click.echo(f"{output} written. Set the key in the environment, then start the bridge:\n")
    for name in names:
        upstream = MINE if name == CUSTOM else name
        click.echo(f"  export {key_variable(upstream)}='{KEY_FORMS.get(name, 'your key')}'")
    click.echo(f"  {with_config('serve', output)}")


def configuration(presets: list[str]) -> str:
    """A configuration file with one upstream per preset; `custom` becomes a mapping to be edited."""
    from bridge.dialects.registry import CUSTOM, load_preset  # noqa: PLC0415 - commands import late

    text = HEAD.format(command=f"{PROGRAM} init {shlex.join(presets)}", program=PROGRAM)
    for preset in presets:
        if preset == CUSTOM:
            text += CUSTOM_TABLE.format(name=MINE, variable=key_variable(MINE), program=PROGRAM)
        else:
            text += _table(preset, load_preset(preset))
    return text


def key_variable(upstream: str) -> str:
    """The variable for the API key of an upstream."""
    return f"BRIDGE_UPSTREAMS__{upstream.upper().replace('-', '_')}__API_KEY"


def _table(name: str, dialect: Dialect) -> str:
    lines = ["", f"# {dialect.title}: {dialect.docs[0]}", f"[upstreams.{name}]"]
    form = f", as {KEY_FORMS[name]}" if name in KEY_FORMS else ""
    lines += [
        f"# The API key is in the environment, not in this file{form}: {key_variable(name)}",
        "# Instead of it, a file that is read again when it changes:",
        f'# api_key_file = "/run/secrets/{name}"',
    ]
    if name in BASE_URLS:
        lines += ["# Required: the address of your gateway.", f'base_url = "{BASE_URLS[name]}"']
    else:
        lines += [
            "# Another host of this provider, such as one of another region:",
            f'# base_url = "{dialect.base_url}"',
        ]
    lines += [
        f"# Callbacks of the provider arrive at /v1/callbacks/{name}/SECRET, below `public_url`:",
        '# callback_secret = "a long random text"',
    ]
    signature = dialect.callback_signature
    if signature is not None and signature.scheme != "fal":  # whose keys are public
        lines += ["# Its callbacks are signed; with the key, unsigned ones are rejected:"]
        lines += ['# callback_signing_key = "the key from the provider"']
    option = f" --option {OPTION_EXAMPLES[name]}" if name in OPTION_EXAMPLES else ""
    lines += [f"# To submit: {PROGRAM} submit {name}{option} @body.json", ""]
    return "\n".join(lines)


def _can_be_added(names: list[str], file: Path) -> bool:
    """Whether the file has none of these upstreams yet: each table may be in it once."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    return not any(f"[upstreams.{name}]" in text for name in (*names, MINE))


def _check(names: list[str]) -> None:
    from bridge.core.suggestion import did_you_mean  # noqa: PLC0415 - commands import late
    from bridge.dialects.registry import CUSTOM, preset_names  # noqa: PLC0415 - commands import late

    choices = (*preset_names(), CUSTOM)
    if not names:
        raise click.UsageError(f"name at least one preset: {', '.join(choices)}")
    for name in names:
        if name not in choices:
            everything = f"; choose one of: {', '.join(choices)}"
            raise click.BadParameter(
                f"unknown preset {name[:80]!r}{did_you_mean(name, choices, everything)}", param_hint="PRESET"
            )
