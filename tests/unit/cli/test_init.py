import re

import pytest
from click.testing import CliRunner

from bridge.cli.init import KEY_FORMS, MINE, OPTION_EXAMPLES, key_variable
from bridge.cli.main import main
from bridge.config.keys import missing_keys
from bridge.config.load import load
from bridge.dialects.base import Submission
from bridge.dialects.registry import CUSTOM, load_preset, preset_names


def init(*arguments):
    return CliRunner().invoke(main, ["init", *arguments])


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("preset", [*preset_names(), CUSTOM])
def test_what_it_writes_is_accepted_and_complete_once_the_key_is_set(preset, tmp_path):
    done = init(preset)
    assert (done.exit_code, done.stderr) == (0, "")
    text = (tmp_path / "bridge.toml").read_text()
    variable = key_variable(MINE if preset == CUSTOM else preset)
    assert f"export {variable}=" in done.stdout
    assert f"{variable}\n" in text
    settings = load(
        tmp_path / "bridge.toml", environment={variable: KEY_FORMS.get(preset, "k").replace("_", "")}
    )
    assert list(settings.upstreams) == [MINE if preset == CUSTOM else preset]
    assert missing_keys(settings) == {}


@pytest.mark.parametrize("preset", preset_names())
def test_the_options_that_a_submit_needs_are_in_it(preset):
    name, _, value = OPTION_EXAMPLES.get(preset, "").partition("=")
    options = {name: value} if name else {}
    assert load_preset(preset).submit_request(Submission(body=b"{}", options=options)) is not None
    assert (f"--option {OPTION_EXAMPLES[preset]}" in init(preset, "--stdout").stdout) if name else True


def test_uncommented_examples_are_accepted_too(tmp_path):
    text = re.sub(r"^# (\w+ = )", r"\1", init("fal", "bfl", "--stdout").stdout, flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(text.replace('api_key_file = "/run', '# "/run'))
    assert load(tmp_path / "all.toml", environment={}).upstreams["bfl"].callback_signing_key is not None


def test_several_presets_make_one_file_each_once(tmp_path):
    assert init("fal", "runway", "fal", "-o", "two.toml").exit_code == 0
    assert list(load(tmp_path / "two.toml", environment={}).upstreams) == ["fal", "runway"]


def test_a_file_that_exists_is_left_as_it_is_and_can_be_added_to(tmp_path):
    init("fal")
    before = (tmp_path / "bridge.toml").read_text()
    again, more = init("fal"), init("runway")
    assert (again.exit_code, more.exit_code) == (1, 1)
    assert "bridge.toml exists" in again.stderr
    assert again.stderr.endswith("Next: taskbridge init fal --stdout\n")
    assert more.stderr.endswith("Next: taskbridge init runway --stdout >> bridge.toml\n")
    assert (tmp_path / "bridge.toml").read_text() == before
    (tmp_path / "bridge.toml").write_text(before + init("runway", "--stdout").stdout)
    assert list(load(tmp_path / "bridge.toml", environment={}).upstreams) == ["fal", "runway"]


def test_an_unknown_preset_names_the_closest_or_all(tmp_path):
    close, far, none = init("fall"), init("hailuo"), init()
    assert {close.exit_code, far.exit_code, none.exit_code} == {2}
    assert "did you mean 'fal'?" in close.stderr
    assert "minimax" in far.stderr
    assert "name at least one preset: ark" in none.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error():
    done = init("fal", "--output", "missing/bridge.toml")
    assert done.exit_code == 1
    assert "cannot write missing/bridge.toml: No such file" in done.stderr
