"""The journal's disk fills up while the bridge runs: unready, nothing lost, and well again with room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.judge import Judge
from tests.chaos.site import Site, get, site, studio
from tests.chaos.viewers import Viewers
from tests.conftest import forbidden
from tests.e2e.scene import until
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

DISK = "2m"


@pytest.mark.extended
async def test_a_full_disk_makes_it_unready_loses_nothing_and_passes(tmp_path: Path) -> None:
    if not _can_mount(tmp_path):
        forbidden("a mount namespace of our own (root on Linux)")
    judge = Judge()
    script = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
    under = ("unshare", "--mount", "sh", "-c", script, str(tmp_path))
    async with studio() as provider, site(provider.url, tmp_path / "full.db", under=under) as bridge:
        refs = await provider.submit(
            {"queue_seconds": 0, "run_seconds": 10 + number, "outcome": "completed"} for number in range(20)
        )
        viewers = Viewers(lambda: bridge.address, judge)
        try:
            for ref in refs:
                viewers.sse(ref)
            await viewers.until(lambda: all(one.known for one in judge.accounts), PATIENCE)
            filler = _fill(bridge, tmp_path)
            provider.advance(15)  # some end now, the others go on
            await until(lambda: _ready(provider.http, bridge), (503, ["journal"]))
            announced = judge.announced()
            status, _ = await get(provider.http, bridge.url + "/livez")
            assert status == 200
            filler.unlink()
            await until(lambda: _ready(provider.http, bridge), (200, []))
            provider.advance(60)
            await viewers.all_over(PATIENCE)
            assert judge.verdict(provider.truth(refs)) == []
            for ref in (*refs, *announced):
                status, state = await get(provider.http, f"{bridge.url}/v1/tasks/{ref}")
                assert (status, state["status"]) == (200, "completed")
        finally:
            await viewers.close()


async def _ready(http: object, bridge: Site) -> tuple[int, list[str]]:
    status, said = await get(http, bridge.url + "/readyz")  # type: ignore[arg-type]
    return status, said["reasons"]


def _fill(bridge: Site, directory: Path) -> Path:
    """Take what room there is, as the bridge sees the place."""
    filler = Path(f"/proc/{bridge.pid}/root{directory}/filler")
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


def _can_mount(directory: Path) -> bool:
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(directory)]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0
