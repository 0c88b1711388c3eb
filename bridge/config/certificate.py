"""The certificate and the private key of the server: checked as a pair, read again when the files change.

Both files are read whole again and again, for the reasons in `bridge.sources.key_file`. They cannot be
replaced in one step: what two readings in a row agree on is used, so that neither a half-written file nor a
new certificate beside the old key is taken for the pair.
"""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bridge.sources.key_file import UnusableKey, read_regular

if TYPE_CHECKING:
    from bridge.config.settings import Settings

CERTIFICATE, KEY = "tls_certificate_file", "tls_key_file"
MAX_PEM_BYTES = 1024 * 1024
EXPIRES_SOON_SECONDS = 14 * 86_400.0
MAX_NAMES = 20

_PRIVATE = b"PRIVATE KEY-----"
_ENCRYPTED = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")

logger = logging.getLogger(__name__)


class UnusablePair(Exception):
    """The two files do not hold a certificate and its key; the message is why, without their content.

    Args:
        setting: The setting that names the file at fault.
    """

    def __init__(self, setting: str, sentence: str) -> None:
        super().__init__(sentence)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready to be served.

    Args:
        context: For new connections.
        names: Host names and addresses it is for, at most `MAX_NAMES`.
        valid_from: Unix seconds.
        valid_until: Unix seconds.
    """

    context: ssl.SSLContext
    names: tuple[str, ...]
    valid_from: float
    valid_until: float

    def warning(self, now: float) -> str | None:
        """What clients object to at `now` (Unix seconds), or will within 14 days; None for nothing."""
        if now < self.valid_from:
            return f"the certificate is not valid before {_moment(self.valid_from)}"
        if now >= self.valid_until:
            return f"the certificate expired at {_moment(self.valid_until)}"
        if now >= self.valid_until - EXPIRES_SOON_SECONDS:
            return f"the certificate expires at {_moment(self.valid_until)}"
        return None


@dataclass(slots=True)
class CertificateFiles:
    """Finds out when the pair in the files has changed.

    Attributes:
        current: The newest usable pair.
        problem: Why the files hold no usable pair now; None while they do.
    """

    certificate_file: Path
    key_file: Path
    current: Certificate = field(init=False)
    problem: str | None = field(init=False, default=None)
    _newest: str = field(init=False, repr=False)  # by the newest reading: a digest, or a problem
    _used: str = field(init=False, repr=False)  # the same of `current`
    _decided: str = field(init=False, repr=False)  # the same of what was accepted or rejected last

    def __post_init__(self) -> None:
        """Read the files for the first time.

        Raises:
            UnusablePair: They hold no usable pair.
        """
        certificate, key = read_pair(self.certificate_file, self.key_file)
        self.current = make_certificate(certificate, key)
        self._newest = self._used = self._decided = _digest(certificate, key)

    def read(self) -> bool:
        """Read the files again; whether `current` is another pair now.

        A pair that is not usable leaves the last one in use, with one warning.
        """
        try:
            certificate, key = read_pair(self.certificate_file, self.key_file)
        except UnusablePair as error:
            if self._is_settled(f"{error.setting}: {error}"):
                self._reject(error)
            return False
        digest = _digest(certificate, key)
        if not self._is_settled(digest):
            return False
        if digest != self._used:
            try:
                self.current = make_certificate(certificate, key)
            except UnusablePair as error:
                self._reject(error)
                return False
        elif self.problem is not None:
            logger.warning("TLS certificate files usable again", extra={"file": str(self.certificate_file)})
        self.problem = None
        replaced, self._used = digest != self._used, digest
        if replaced:
            fields = {"file": str(self.certificate_file), "valid_until": _moment(self.current.valid_until)}
            logger.info("TLS certificate replaced", extra=fields)
        return replaced

    def _is_settled(self, reading: str) -> bool:
        """Whether two readings in a row agree on something that was not decided about yet."""
        agree, self._newest = reading == self._newest, reading
        if not agree or reading == self._decided:
            return False
        self._decided = reading
        return True

    def _reject(self, error: UnusablePair) -> None:
        file = self.key_file if error.setting == KEY else self.certificate_file
        self.problem = f"{error.setting}: {error}"
        kept = f"the last pair is kept, valid until {_moment(self.current.valid_until)}"
        logger.warning(
            "TLS certificate files unusable", extra={"file": str(file), "error": f"{error}; {kept}"}
        )


def read_pair(certificate_file: Path, key_file: Path) -> tuple[bytes, bytes]:
    """The content of both files.

    Raises:
        UnusablePair: One cannot be read.
    """
    contents = []
    for setting, path in ((CERTIFICATE, certificate_file), (KEY, key_file)):
        try:
            contents.append(read_regular(path, MAX_PEM_BYTES))
        except OSError as error:
            raise UnusablePair(setting, error.strerror or "it cannot be read") from None
        except UnusableKey as error:
            raise UnusablePair(setting, str(error)) from None
    return contents[0], contents[1]


def make_certificate(certificate: bytes, key: bytes) -> Certificate:
    """A certificate, with those of its chain behind it, and its private key, all PEM.

    Raises:
        UnusablePair: They cannot be used, or do not belong together.
    """
    chain = _chain(certificate)
    if any(mark in key for mark in _ENCRYPTED):
        advice = "the bridge cannot ask for a passphrase: `openssl pkey -in FILE -out NEW` decrypts it"
        raise UnusablePair(KEY, f"the private key is encrypted; {advice}")
    if _PRIVATE not in key:
        raise UnusablePair(KEY, f"it holds no private key in PEM form{_instead(key)}")
    context = _context()
    try:
        _load(context, certificate, key)
    except ssl.SSLError as error:
        raise _explained(error, chain, key) from None
    leaf = chain[0]
    return Certificate(
        context, _names(leaf), leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    )


def certificate_warnings(settings: Settings, now: float) -> list[str]:
    """What clients object to in the certificate of valid settings, at `now` (Unix seconds)."""
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return []
    pair = read_pair(settings.tls_certificate_file, settings.tls_key_file)
    warning = make_certificate(*pair).warning(now)
    return [] if warning is None else [f"{CERTIFICATE}: {warning}"]


def _chain(certificate: bytes) -> list[x509.Certificate]:
    try:
        chain = x509.load_pem_x509_certificates(certificate)
    except ValueError as error:
        if b"-----BEGIN CERTIFICATE-----" in certificate:
            raise UnusablePair(CERTIFICATE, f"it holds a broken certificate: {error}") from None
        sentence = f"it holds no certificate in PEM form{_instead(certificate)}"
        raise UnusablePair(CERTIFICATE, sentence) from None
    return chain


def _instead(content: bytes) -> str:
    """What a file holds that has not what is expected."""
    if not content.strip():
        return ": it is empty"
    if _PRIVATE in content:
        return " but a private key; are the two files swapped?"
    if b"-----BEGIN CERTIFICATE-----" in content:
        return " but a certificate; are the two files swapped?"
    if content[:1] == b"\x30":
        return " but DER; `openssl x509` and `openssl pkey` convert it with `-inform der`"
    return ""


def _context() -> ssl.SSLContext:
    # Not `create_default_context`, which would write session keys to the file in SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load exactly what was read: the files themselves may be others by now.

    Raises:
        ssl.SSLError: OpenSSL rejects them.
    """
    with _as_file(certificate) as certificate_path, _as_file(key) as key_path:
        # An empty passphrase, or OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate_path, key_path, password=b"")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to `content` that no other user can read; in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            path = f"/proc/self/fd/{descriptor}"
            if Path(path).exists():  # not without /proc
                yield path
                return
        finally:
            os.close(descriptor)
    with tempfile.NamedTemporaryFile(prefix="bridge-") as file:
        file.write(content)
        file.flush()
        yield file.name


def _explained(error: ssl.SSLError, chain: list[x509.Certificate], key: bytes) -> UnusablePair:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        if any(_fits(other, key) for other in chain[1:]):
            sentence = "the private key belongs to a later certificate of the file; that one has to be first"
            return UnusablePair(CERTIFICATE, sentence)
        return UnusablePair(KEY, "the private key does not belong to the certificate")
    if error.reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"):
        return UnusablePair(CERTIFICATE, f"clients would refuse it as too weak ({_reason(error)})")
    return UnusablePair(KEY, f"it holds no private key that can be used ({_reason(error)})")


def _fits(certificate: x509.Certificate, key: bytes) -> bool:
    try:
        _load(_context(), certificate.public_bytes(Encoding.PEM), key)
    except ssl.SSLError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "unknown format").replace("_", " ").lower()


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    names = alternatives.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]
    return (*names, *addresses)[:MAX_NAMES]


def _digest(certificate: bytes, key: bytes) -> str:
    # Not the content itself: a key should not lie about in memory.
    return hashlib.sha256(hashlib.sha256(certificate).digest() + hashlib.sha256(key).digest()).hexdigest()


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
