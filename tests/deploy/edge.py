"""The proxies of `deploy/` as processes: the files as they ship, on other ports, with our certificate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.proxy import HOST, free_port
from tests.conftest import missing
from tests.docs.pages import ROOT
from tests.harness import PATIENCE
from tests.tools.install import WHERE_ROOT_LOOKS

FILES = {
    "nginx": ROOT / "deploy" / "nginx" / "bridge.conf",
    "caddy": ROOT / "deploy" / "caddy" / "Caddyfile",
    "haproxy": ROOT / "deploy" / "haproxy" / "haproxy.cfg",
}
CHECKS = {
    "nginx": ("nginx", "-t", "-c"),
    "caddy": ("caddy", "validate", "--adapter", "caddyfile", "--config"),
    "haproxy": ("haproxy", "-c", "-f"),
}
RUNS = {
    "nginx": ("nginx", "-c"),
    "caddy": ("caddy", "run", "--adapter", "caddyfile", "--config"),
    "haproxy": ("haproxy", "-db", "-f"),
}
_NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/main.log crit; {user}
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/temp; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; access_log off;
    {bridge}
}}
"""


@dataclass
class Edge:
    """A proxy that runs."""

    name: str
    port: int
    folder: Path
    process: Process

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """Believes the proxy's certificate, and no other."""
        return ssl.create_default_context(cafile=str(self.folder / "fullchain.pem"))

    def log(self) -> str:
        """Everything it has written down."""
        return "".join(path.read_text("utf-8") for path in sorted(self.folder.glob("*.log")))


def text(name: str, folder: Path, port: int, bridges: list[int], also: Mapping[str, str]) -> str:
    """The file as it ships, with these ports and this folder; every text to replace must be in it."""
    plain = str(free_port())
    shipped = FILES[name].read_text("utf-8")
    wanted = {"/etc/ssl/bridge/": f"{folder}/", "127.0.0.1:8080": f"{HOST}:{bridges[0]}"} | also
    if len(bridges) > 1:
        wanted |= {"# server": "server", "127.0.0.1:8090": f"{HOST}:{bridges[1]}"}
    match name:
        case "nginx":
            wanted |= {"listen 443": f"listen {HOST}:{port}", "listen 80;": f"listen {HOST}:{plain};"}
            wanted |= {"/var/log/nginx/": f"{folder}/"}
        case "caddy":
            wanted |= {"{\n\t# The": f"{{\n\tadmin off\n\thttp_port {plain}\n\t# The"}
            wanted |= {"bridge.example.com {": f"https://{HOST}:{port} {{"}
            if wanted.pop("# server", None):
                wanted["# to"] = "to"
        case "haproxy":
            wanted |= {"bind :443": f"bind {HOST}:{port}", "bind :80": f"bind {HOST}:{plain}"}
    for old, new in wanted.items():
        assert old in shipped, f"{FILES[name]} has no {old!r}"
        shipped = shipped.replace(old, new)
    if name == "nginx":
        user = "user root;" if os.geteuid() == 0 else ""
        return _NGINX.format(folder=folder, bridge=shipped, user=user)
    return shipped


def needs(name: str) -> None:
    """Skip, or fail in CI, where the proxy is not installed."""
    if program(name) is None:
        missing(name)


def program(name: str) -> str | None:
    """Its path; on Debian some are in a folder that is only in the PATH of root."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{WHERE_ROOT_LOOKS}")


def checked(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The proxy's own check of a file that was written to the folder before."""
    command = [program(name) or name, *CHECKS[name][1:], str(folder / "edge.conf")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(folder))


@asynccontextmanager
async def edge(
    name: str, folder: Path, *bridges: int, also: Mapping[str, str] | None = None
) -> AsyncIterator[Edge]:
    """A proxy in front of bridges on these ports.

    Args:
        also: What else is replaced in the file.
    """
    needs(name)
    port = free_port()
    make_certificate(folder)
    (folder / "edge.conf").write_text(text(name, folder, port, list(bridges), also or {}))
    command = (program(name) or name, *RUNS[name][1:], str(folder / "edge.conf"))
    with (folder / "process.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=log, stderr=log, env=_environment(folder)
        )
    made = Edge(name, port, folder, process)
    try:
        await _listens(made)
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(PATIENCE):
            await process.wait()
        process._transport.close()


async def _listens(made: Edge) -> None:
    async with asyncio.timeout(PATIENCE):
        while made.process.returncode is None:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, made.port)
                writer.transport.abort()
                return
            await asyncio.sleep(0.02)
    raise AssertionError(made.log())


def make_certificate(folder: Path) -> None:
    """A key and a certificate that it signs itself, under the names the files have."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bridge.example.com")])
    names = [x509.DNSName("bridge.example.com"), x509.IPAddress(ipaddress.ip_address(HOST))]
    day, today = (
        dt.timedelta(days=1),
        dt.datetime.fromtimestamp(folder.stat().st_ctime, dt.UTC),
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - day)
        .not_valid_after(today + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "fullchain.pem").write_bytes(chain)
    (folder / "privkey.pem").write_bytes(secret)
    (folder / "bridge.pem").write_bytes(chain + secret)


def _environment(folder: Path) -> dict[str, str]:
    return os.environ | {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
