"""bridge.toml in the working directory, and how a failed start ends."""

import pytest
from click.testing import CliRunner

from bridge.cli.main import main

FILE = 'journal = "memory"\ntoken_issuer = "me"\nauth = "token"\n[upstreams.fal]\napi_key = "k"\n'
SECRETS = 'token_secrets = ["0123456789abcdef0123456789abcdef"]\n'
SAID = "configuration: bridge.toml in the working directory\n"


def command(*arguments, **variables):
    return CliRunner(env=variables).invoke(main, arguments)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BRIDGE_CONFIG", raising=False)
    return tmp_path


def test_the_file_in_the_working_directory_is_found_and_said(folder):
    (folder / "bridge.toml").write_text(SECRETS + FILE)
    checked, minted = command("check-config"), command("token", "mint")
    assert (checked.exit_code, minted.exit_code) == (0, 0)
    assert checked.stderr == minted.stderr == SAID
    assert minted.stdout.count("\n") == 1
    assert "upstreams.fal.api_key" in checked.stdout


def test_a_file_that_is_named_wins_and_nothing_is_said(folder):
    (folder / "bridge.toml").write_text("broken [")
    (folder / "other.toml").write_text(SECRETS + FILE)
    for done in (
        command("check-config", "--config", "other.toml"),
        command("check-config", BRIDGE_CONFIG="other.toml"),
        command(
            "check-config",
            "--config",
            "/dev/null",
            BRIDGE_UPSTREAMS__FAL__API_KEY="k",
            BRIDGE_JOURNAL="memory",
        ),
    ):
        assert (done.exit_code, done.stderr) == (0, "")


def test_a_directory_of_that_name_is_an_error(folder):
    # container engines create one when the file they are to mount does not exist
    (folder / "bridge.toml").mkdir()
    done = command("check-config", BRIDGE_UPSTREAMS__FAL__API_KEY="k")
    assert done.exit_code == 2
    assert "bridge.toml: Is a directory" in done.stderr


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            "[upstreams.fal\n",
            "bridge.toml: Expected ']' at the end of a table declaration",
        ),
        ("\udcff", "bridge.toml: not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_the_only_error(folder, text, cause):
    (folder / "bridge.toml").write_bytes(text.encode(errors="surrogateescape"))
    done = command("serve", BRIDGE_NONSENSE="1")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"{SAID}Configuration error: 1 problem\n  - {cause}")
    assert done.stderr.count("  - ") == 1
    assert done.stderr.endswith("\nNext: taskbridge check-config\n")
    assert "Next" not in command("check-config").stderr


def test_a_file_that_is_missing_is_the_only_error_and_can_be_written():
    done = command("serve", "--config", "no where.toml")
    assert done.exit_code == 2
    assert done.stderr == (
        "Configuration error: 1 problem\n  - no where.toml: No such file or directory\n"
        "Next: taskbridge init fal --output 'no where.toml'\n"
    )


def test_without_any_configuration_the_next_command_writes_one():
    done = command("serve")
    assert done.exit_code == 2
    assert done.stderr.endswith("Next: taskbridge init fal\n")
    assert "upstreams: configure at least one provider" in done.stderr


@pytest.mark.parametrize("name", ["serve", "check-config"])
def test_the_next_command_adds_a_provider_to_a_file_that_has_none(folder, name):
    (folder / "bridge.toml").write_text("port = 8080\n")
    done = command(name)
    assert done.exit_code == 2
    assert done.stderr.endswith("\nNext: taskbridge init fal --stdout >> bridge.toml\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("upstreams = ['fal']", "upstreams: must be a table\n"),
        ("[upstreams]\nfal = 'a secret key'", "upstreams.fal: must be a table, such as [upstreams.fal]\n"),
        ("port = 'eighty'", "port: must be a whole number\n"),
        ("port = 80.5", "port: must be a whole number\n"),
        ("host = 1", "host: must be a text in quotes\n"),
        ("insecure = 'perhaps'", "insecure: must be true or false\n"),
        ("allowed_origins = 'http://localhost'", 'allowed_origins: must be a list, such as ["a", "b"]\n'),
        ("drain_seconds = 'long'", "drain_seconds: must be a number\n"),
    ],
)
def test_a_value_of_the_wrong_type_is_reported_in_terms_of_the_file(folder, text, sentence):
    (folder / "bridge.toml").write_text(text)
    done = command("check-config")
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("text", "variables", "sentence"),
    [
        ("prot = 1", {}, "prot: no such setting; did you mean 'port'?"),
        ("api_key = 'k'", {}, "api_key: no such setting; it is a setting of an upstream: move it below"),
        ("[fal]\napi_key = 'k'", {}, "fal: no such setting; did you mean [upstreams.fal]?"),
        ("[upstream.fal]", {}, "upstream: no such setting; did you mean 'upstreams'?"),
        (
            "[upstreams.fal]\napi_ky = 'k'",
            {},
            "fal.api_ky: no such setting; did you mean 'api_key'?",
        ),
        (
            "[upstreams.fal]\nport = 1",
            {},
            "fal.port: no such setting; it is a setting of the bridge",
        ),
        ("[upstreams.fall]", {}, "upstreams.fall.preset: unknown preset 'fall'; did you mean 'fal'?"),
        (
            "[upstreams.x]\npreset = 'vapy'",
            {},
            "unknown preset 'vapy'; did you mean 'vapi'?",
        ),
        ("[upstreams.hailuo]", {}, "unknown preset 'hailuo'; choose one of: ark, bfl"),
        ("colour = 1", {}, "colour: no such setting\n"),
        ("", {"BRIDGE_PROT": "1"}, "BRIDGE_PROT: no such setting; did you mean 'BRIDGE_PORT'?"),
        ("", {"BRIDGE_TOKN": "1"}, "BRIDGE_TOKN: no such setting; did you mean 'BRIDGE_TOKEN'?"),
        ("", {"BRIDGE_COLOUR": "2"}, "BRIDGE_COLOUR: no such setting\n"),
        (
            "",
            {"BRIDGE_API_KEY": "1"},
            "BRIDGE_API_KEY: no such setting; it is a setting of an upstream",
        ),
    ],
)
def test_a_misspelt_name_is_reported_with_what_was_probably_meant(folder, text, variables, sentence):
    (folder / "bridge.toml").write_text(text)
    done = command("check-config", **variables)
    assert done.exit_code == 2
    assert sentence in done.stderr
    if "did you mean" in sentence and "upstreams" in sentence:
        assert "1 problem\n" in done.stderr
    assert "'k'" not in done.stderr


def test_sentences_below_the_table_are_not_wider_than_a_terminal(folder):
    text = 'engine = "redis://h"\nworkers = 2\nretention_seconds = 2592000\n[upstreams.fal]\napi_key = "k"\n'
    (folder / "bridge.toml").write_text(text)
    done = command("check-config")
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\nCounted by each of the 2 workers" in done.stdout
    assert "warning: retention_seconds: " in done.stderr


def test_connect_tries_the_store_of_outputs(folder):
    (folder / "bridge.toml").write_text(
        'journal = "memory"\n[outputs]\nstore = "file:outputs"\n[upstreams.fal]\napi_key = "k"\n'
    )
    checked = command("check-config", "--connect")
    assert checked.exit_code == 0
    assert "outputs: copies can be written and read" in checked.stderr
    assert [path.name for path in (folder / "outputs").iterdir()] == [".parts"]
    refused = command("check-config", "--connect", BRIDGE_OUTPUTS__STORE="file:bridge.toml")
    assert refused.exit_code == 1
    assert "Error: outputs.store: the directory of outputs does not exist, or is none" in refused.stderr
    assert command("check-config", BRIDGE_OUTPUTS__STORE="file:bridge.toml").exit_code == 0
