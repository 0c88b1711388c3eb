"""Fetches the files of Swagger UI that the bridge ships, in the version pinned here.

`python -m tests.tools.swagger_ui`. For another version, change `VERSION` and `INTEGRITY` (`npm view
swagger-ui-dist@VERSION dist.integrity`), run it and commit what it wrote: it prints the new `FILES`.
"""

from __future__ import annotations

import gzip
import sys
import tarfile
import tempfile
from base64 import b64encode
from hashlib import sha256, sha512
from pathlib import Path
from subprocess import run

VERSION = "5.35.0"
INTEGRITY = "sha512-U06rpMtW9V3XPGOBeamTUSr0Z09jMX4IJuANpE/EZbAhw0G8CgwrzU4YmXkn/h0wCDNsXdGarTNNHC3sU8yVUQ=="
FOLDER = Path(__file__).parents[2] / "bridge/web/static/docs"
LICENSES = "swagger-ui.LICENSE.txt"
# With the SHA-256 of their content, uncompressed: a test compares it.
FILES = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


def main() -> int:
    """Fetch, check and write them; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        command = ("npm", "pack", f"swagger-ui-dist@{VERSION}", "--silent")
        run(command, cwd=folder, check=True)
        [package] = Path(folder).glob("*.tgz")
        found = "sha512-" + b64encode(sha512(package.read_bytes()).digest()).decode()
        if found != INTEGRITY:
            sys.stderr.write(f"swagger-ui-dist {VERSION} has another checksum: {found}\n")
            return 1
        with tarfile.open(package) as archive:
            contents = {name: _read(archive, name) for name in FILES}
            notices = ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt")
            licenses = b"\n\n".join(_read(archive, name).rstrip() for name in notices) + b"\n"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / LICENSES).write_bytes(licenses)
    for name, content in contents.items():
        # The time is left out, so that the same content is always the same file.
        (FOLDER / f"{name}.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        sys.stdout.write(f'    "{name}": "{sha256(content).hexdigest()}",\n')
    return 0


def unpacked(name: str) -> bytes:
    """The content of a file as the bridge ships it."""
    return gzip.decompress((FOLDER / f"{name}.gz").read_bytes())


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/{name}")
    assert member is not None, name
    return member.read()


if __name__ == "__main__":
    sys.exit(main())
