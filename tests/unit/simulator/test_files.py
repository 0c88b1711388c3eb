import io
import wave

import pytest

from bridge.simulator.files import png, svg, wav

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("media", "content_type", "start"),
    [
        ("video", "image/svg+xml", b"<svg"),
        ("image", "image/png", b"\x89PNG"),
        ("audio", "audio/wav", b"RIFF"),
    ],
)
async def test_results_link_to_files_that_are_there(sim, media, content_type, start):
    task_id = await sim.qingbo(queue_seconds=0, run_seconds=0, shape={"media": media, "url": "array"})
    result = (await sim.get(f"/qingbo/v1/tasks/{task_id}"))["result"]
    async with sim.session.get(result[f"{media}s"][0]["url"][0]) as response:
        assert response.content_type == content_type
        assert (await response.read()).startswith(start)


async def test_other_files_are_not_there(sim):
    async with sim.open("GET", "/files/x.exe") as response:
        assert response.status == 404


def test_files_differ_by_their_name_and_are_well_formed():
    assert svg(1) != svg(2)
    assert png(1) != png(200)
    with wave.open(io.BytesIO(wav(10))) as sound:
        assert sound.getnframes() == 4000
