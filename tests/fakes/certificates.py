"""A certificate authority for tests."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from bridge.clock import SystemClock

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Put both into a folder."""
        for name, content in (("tls.crt", self.certificate), ("tls.key", self.key)):
            (folder / name).write_bytes(content)
        return folder / "tls.crt", folder / "tls.key"


@dataclass
class Authority:
    """Signs certificates for this machine."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.certificate = self._signed("authority", self.key, ca=True, days=30.0)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def trust(self) -> ssl.SSLContext:
        """A client's context."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def pair(
        self,
        name: str = "bridge",
        *,
        days: float = 30.0,
        begins: float = -1.0,
        passphrase: bytes = b"",
        key: PrivateKey | None = None,
    ) -> Pair:
        """A certificate for `localhost` and 127.0.0.1 with the chain behind it."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        signed = self._signed(name, key, days=days, begins=begins)
        sealed = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return Pair(
            signed.public_bytes(Encoding.PEM) + self.pem,
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed),
        )

    def _signed(
        self, name: str, key: PrivateKey, *, days: float, begins: float = -1.0, ca: bool = False
    ) -> x509.Certificate:
        now = datetime.fromtimestamp(SystemClock().time(), UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = subject if ca else self.certificate.subject
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=begins))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
            )
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())
