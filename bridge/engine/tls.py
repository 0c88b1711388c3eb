"""TLS towards a shared engine: whose certificates are trusted, and which one the bridge presents."""

from __future__ import annotations

import ssl
from os import PathLike

from bridge.net import trusting

Path = str | PathLike[str]


class UnusableFile(ValueError):
    """A file cannot be used for TLS.

    Args:
        kind: `ca`, `certificate` or `key`.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def client_tls(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """The context of connections to the engine.

    Args:
        ca: PEM file with the certificates to trust; None for the system's.
        certificate: PEM file of the bridge's own one, with its `key`; None for none.

    Raises:
        UnusableFile: A file cannot be read, or does not hold what it should.
    """
    try:
        context = ssl.create_default_context() if ca is None else trusting(ca)
    except ValueError as error:
        raise UnusableFile("ca", str(error)) from None
    if certificate is None or key is None:
        return context
    for kind, path in (("certificate", certificate), ("key", key)):
        try:
            with open(path, "rb"):  # noqa: PTH123 - a path may be a text
                pass
        except OSError as error:
            raise UnusableFile(kind, f"{path}: {error.strerror}") from None
    try:
        # Without a password here, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UnusableFile("key", f"{key} is not the key of the certificate") from None
        raise UnusableFile(
            "certificate", f"{certificate} and {key} are not a certificate and its key, in PEM, not encrypted"
        ) from None
    return context
