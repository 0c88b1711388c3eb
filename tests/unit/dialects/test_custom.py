from bridge.dialects.custom import check_table, read_file

MAPPING = """title = "Acme"
base_url = "ftp://acme"

[calls.status]
path = "job/{task_id}"

[status]
at = "a..b"

[[outputs]]
type = "video"

[[outputs]]
at = "x"
type = "hologram"
"""


def test_all_errors_of_a_file_are_reported_with_their_lines(tmp_path):
    file = tmp_path / "acme.toml"
    file.write_text(MAPPING)
    errors = []
    read_file(file, errors)
    assert [error.removeprefix(f"{file}:").partition(": Expecting")[0] for error in errors] == [
        "2: base_url: must be an http(s) URL without a query",
        "5: calls.status.path: must begin with /",
        "8: status.at: 'a..b' is not JMESPath",
        "10: outputs[0].at: missing",
        "15: outputs[1].type: 'hologram' is not one of image, video, audio, file",
    ]


def test_errors_of_a_dialect_inside_the_configuration_have_the_configurations_lines():
    text = '[upstreams.acme]\npreset = "custom"\n\n[upstreams.acme.dialect]\nbase_url = 7\n'
    document = {"base_url": 7}
    at = ("upstreams", "acme", "dialect")
    missing = "status.at: missing, and no [answer.http] status takes its place"
    assert check_table(document, at, "bridge.toml", text) == [
        "bridge.toml:4: upstreams.acme.dialect.calls.status: missing",
        f"bridge.toml:4: upstreams.acme.dialect.{missing}",
        "bridge.toml:5: upstreams.acme.dialect.base_url: must be a string, and not empty",
    ]
    assert "upstreams.acme.dialect.calls.status: missing" in check_table(document, at, "", "")


def test_what_cannot_be_read_says_why(tmp_path):
    broken, binary = tmp_path / "broken.toml", tmp_path / "binary.toml"
    broken.write_text("title = \n")
    binary.write_bytes(b"\xff")
    errors = []
    for file in (tmp_path / "missing.toml", tmp_path, broken, binary, tmp_path / "a\0b"):
        assert read_file(file, errors) is None
    assert [error.rpartition("/")[2] for error in errors[:1]] == ["missing.toml: No such file or directory"]
    assert "Is a directory" in errors[1]
    assert "not TOML" in errors[2]
    assert "line 1" in errors[2]
    assert "not UTF-8 text" in errors[3]
    assert "is not a path" in errors[4]
