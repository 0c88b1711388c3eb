"""A certificate and its key: what is accepted as a pair, and what a change of the files does."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bridge.config.certificate import CertificateFiles, UnusablePair, make_certificate
from bridge.config.load import load
from bridge.errors import ConfigError
from tests.fakes.certificates import Authority, Pair

AUTHORITY = Authority()
OLD, NEW = AUTHORITY.pair("old", days=20), AUTHORITY.pair("new", days=40)
DAY = 86_400.0


def _until(pair: Pair) -> float:
    return make_certificate(pair.certificate, pair.key).valid_until


@pytest.fixture
def files(tmp_path: Path) -> CertificateFiles:
    return CertificateFiles(*OLD.write(tmp_path))


def _write(files: CertificateFiles, certificate: bytes, key: bytes) -> None:
    files.certificate_file.write_bytes(certificate)
    files.key_file.write_bytes(key)


def _settle(files: CertificateFiles) -> list[bool]:
    return [files.read() for _ in range(3)]


def test_a_pair_knows_its_names_and_until_when_it_is_valid() -> None:
    made = make_certificate(OLD.certificate, OLD.key)
    assert made.names == ("localhost", "127.0.0.1")
    assert made.valid_until - made.valid_from == pytest.approx(21 * DAY, abs=2)


def test_rsa_keys_in_the_old_form_are_read_too() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    old_form = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    make_certificate(AUTHORITY.pair(key=key).certificate, old_form)


@pytest.mark.parametrize(
    ("certificate", "key", "setting", "said"),
    [
        (OLD.certificate, NEW.key, "key", "does not belong to the certificate"),
        (OLD.key, OLD.certificate, "certificate", "swapped"),
        (OLD.certificate, OLD.certificate, "key", "swapped"),
        (b"", OLD.key, "certificate", "it is empty"),
        (OLD.certificate, b"\n", "key", "it is empty"),
        (OLD.certificate[:300], OLD.key, "certificate", "broken certificate"),
        (OLD.certificate, OLD.key[:100], "key", "no private key that can be used"),
        (OLD.certificate, AUTHORITY.pair(passphrase=b"x").key, "key", "is encrypted"),
        (b"\x30\x82\x01\x00", OLD.key, "certificate", "DER"),
        (b"\xff\xfe\x00", OLD.key, "certificate", "no certificate"),
        (AUTHORITY.pem + OLD.certificate, OLD.key, "certificate", "has to be first"),
    ],
    # Not the keys, which are new in every process: parallel test runners compare the ids.
    ids=lambda value: value if isinstance(value, str) else "pem",
)
def test_what_is_no_pair_is_told_by_the_file_at_fault(
    certificate: bytes, key: bytes, setting: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UnusablePair, match=said) as caught:
        make_certificate(certificate, key)
    assert caught.value.setting == f"tls_{setting}_file"
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize(
    ("days", "begins", "said"),
    [(-1, -9, "expired at"), (9, 1, "before"), (13, -1, "expires at"), (15, -1, None)],
)
def test_a_certificate_that_clients_object_to_is_told(days: float, begins: float, said: str | None) -> None:
    pair = AUTHORITY.pair(days=days, begins=begins)
    made = make_certificate(pair.certificate, pair.key)
    now = made.valid_until - days * DAY
    assert (said or "") in (made.warning(now) or "")
    assert (said is None) == (made.warning(now) is None)


def test_a_new_pair_is_used_once_two_readings_agree(files: CertificateFiles) -> None:
    before = files.current.context
    _write(files, NEW.certificate, NEW.key)
    assert _settle(files) == [False, True, False]
    assert files.current.valid_until == _until(NEW)
    assert files.current.context is not before


def test_a_certificate_that_arrives_before_its_key_is_not_a_wrong_pair(
    files: CertificateFiles, caplog: pytest.LogCaptureFixture
) -> None:
    files.certificate_file.write_bytes(NEW.certificate)
    assert not files.read()
    files.key_file.write_bytes(NEW.key)
    assert _settle(files) == [False, True, False]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_symbolic_link_that_is_replaced_leads_to_the_new_pair(tmp_path: Path) -> None:
    # As an orchestrator mounts secrets: ..data is a link to a folder, and each file a link into ..data.
    for name, pair in (("..1", OLD), ("..2", NEW)):
        (tmp_path / name).mkdir()
        pair.write(tmp_path / name)
    (tmp_path / "..data").symlink_to("..1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = CertificateFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert _settle(files) == [False, True, False]
    assert files.current.valid_until == _until(NEW)


def _wrong_key(files: CertificateFiles) -> None:
    files.key_file.write_bytes(NEW.key)


def _half(files: CertificateFiles) -> None:
    files.certificate_file.write_bytes(OLD.certificate[:200])


def _gone(files: CertificateFiles) -> None:
    files.key_file.unlink()


def _folder(files: CertificateFiles) -> None:
    files.certificate_file.unlink()
    files.certificate_file.mkdir()


def _pipe(files: CertificateFiles) -> None:
    files.key_file.unlink()
    os.mkfifo(files.key_file)


@pytest.mark.parametrize("change", [_wrong_key, _half, _gone, _folder, _pipe])
def test_a_wrong_pair_leaves_the_old_one_and_is_logged_once(
    files: CertificateFiles, caplog: pytest.LogCaptureFixture, change: Callable[[CertificateFiles], None]
) -> None:
    before = files.current
    change(files)
    assert _settle(files) + _settle(files) == [False] * 6
    assert files.current is before
    assert files.problem is not None
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in told] == ["TLS certificate files unusable"]
    assert "the last pair is kept" in told[0].__dict__["error"]
    assert "BEGIN" not in told[0].__dict__["error"]


@pytest.mark.parametrize("pair", [OLD, NEW], ids=["the old one", "another"])
def test_a_pair_that_is_repaired_is_used(
    files: CertificateFiles, caplog: pytest.LogCaptureFixture, pair: Pair
) -> None:
    caplog.set_level(logging.INFO)
    files.key_file.write_bytes(b"")
    _settle(files)
    _write(files, pair.certificate, pair.key)
    assert _settle(files) == [False, pair is NEW, False]
    assert files.problem is None
    assert files.current.valid_until == _until(pair)
    expected = "TLS certificate replaced" if pair is NEW else "TLS certificate files usable again"
    assert caplog.records[-1].getMessage() == expected


def _errors(tmp_path: Path, *lines: str) -> list[str]:
    config = tmp_path / "bridge.toml"
    config.write_text("\n".join([*lines, "[upstreams.qingbo]", ""]))
    try:
        load(config, environment={})
    except ConfigError as error:
        return error.errors
    return []


def test_the_settings_are_relative_to_the_configuration_and_both_or_neither(tmp_path: Path) -> None:
    OLD.write(tmp_path)
    certificate, key = 'tls_certificate_file = "tls.crt"', 'tls_key_file = "tls.key"'
    assert _errors(tmp_path, certificate, key) == []
    assert _errors(tmp_path, certificate)[0].startswith("tls_key_file: required")
    assert _errors(tmp_path, key)[0].startswith("tls_certificate_file: required")


def test_a_pair_that_cannot_be_used_is_told_with_all_other_errors(tmp_path: Path) -> None:
    OLD.write(tmp_path)
    (tmp_path / "tls.key").unlink()
    settings = ('tls_certificate_file = "tls.crt"', 'tls_key_file = "tls.key"', 'host = "0.0.0.0"')
    host, key = sorted(_errors(tmp_path, *settings))
    assert host.startswith("host: ")
    assert key == f"tls_key_file: {tmp_path / 'tls.key'} is not usable: No such file or directory"
