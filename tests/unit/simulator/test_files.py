import io
import wave

import pytest

from bridge.simulator.files import VARIANTS, VIDEOS, png, respond, wav

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("media", "content_type", "start"),
    [
        ("video", "video/webm", b"\x1a\x45\xdf\xa3"),
        ("image", "image/png", b"\x89PNG"),
        ("audio", "audio/wav", b"RIFF"),
    ],
)
async def test_results_link_to_files_that_are_there(sim, media, content_type, start):
    task_id = await sim.qingbo(queue_seconds=0, run_seconds=0, shape={"media": media, "url": "array"})
    result = (await sim.get(f"/qingbo/v1/tasks/{task_id}"))["result"]
    async with sim.session.get(result[f"{media}s"][0]["url"][0]) as response:
        assert response.content_type == content_type
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert (await response.read()).startswith(start)


async def test_other_files_are_not_there(sim):
    async with sim.open("GET", "/files/x.exe") as response:
        assert response.status == 404


async def test_a_part_of_a_file_is_served_as_safari_asks_for_it(sim):
    async with sim.session.get(f"{sim.url}/files/a.mp4", headers={"Range": "bytes=0-1"}) as response:
        assert response.status == 206
        size = int(response.headers["Content-Range"].removeprefix("bytes 0-1/"))
        assert len(await response.read()) == 2
    async with sim.session.head(f"{sim.url}/files/a.mp4") as response:
        assert int(response.headers["Content-Length"]) == size
    async with sim.session.options(f"{sim.url}/files/a.mp4") as response:
        assert response.headers["Access-Control-Allow-Headers"] == "*"


@pytest.mark.parametrize(
    ("requested", "status", "content_range", "length"),
    [
        ("bytes=10-", 206, "bytes 10-63/64", 54),
        ("bytes=-4", 206, "bytes 60-63/64", 4),
        ("bytes=-999", 206, "bytes 0-63/64", 64),
        ("bytes=0-999", 206, "bytes 0-63/64", 64),
        ("bytes=64-", 416, "bytes */64", 0),
        ("bytes=64-70", 416, "bytes */64", 0),
        ("bytes=-0", 416, "bytes */64", 0),
        ("bytes=9-3", 200, None, 64),
        ("bytes=-", 200, None, 64),
        ("bytes=0-1,3-4", 200, None, 64),
        ("lines=0-1", 200, None, 64),
        ("bytes=1" * 99, 200, None, 64),
    ],
)
def test_ranges(requested, status, content_range, length):
    response = respond("x.bin", requested)
    assert (response.status, response.headers.get("Content-Range")) == (status, content_range)
    assert len(response.body) == length


def test_files_differ_by_their_name_and_are_well_formed():
    assert png(1) != png(200)
    assert len({respond(f"{name}.webm").body for name in range(20)}) == VARIANTS
    with wave.open(io.BytesIO(wav(10))) as sound:
        assert sound.getnframes() == 25_600


def test_the_videos_are_small():
    sizes = [file.stat().st_size for file in VIDEOS.iterdir()]
    assert len(sizes) == 2 * VARIANTS
    assert max(sizes) < 40_000


def test_recorded_links_keep_their_ending_and_get_a_file_of_their_kind():
    for ending, start in (("MP4", b"ftyp"), ("mov", b"ftyp"), ("jpg", b"PNG"), ("mp3", b"RIFF")):
        assert start in respond(f"x.{ending}").body[:16]
