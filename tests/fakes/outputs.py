"""Files of results as a provider serves them, which cut, hang and refuse when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from bridge.core.task import Output, TaskKey
from bridge.errors import UpstreamRefused
from bridge.outputs.source import OutputFile
from bridge.sources.upstream import Upstream

VIDEO = b"\x1aE\xdf\xa3\x00\x00\x00\x00webm" + b"v" * 5000


class FakeFiles:
    """Stands in for `OutputSource`.

    Attributes:
        content: What is served, by URL.
        errors: What opening a URL raises.
        cut: URLs whose bytes end with this error.
        length: What is said of the length, by URL.
        opened: Every URL that was opened, in order.
        open_now: Those that are open.
        flows: Clear it, and every file waits after its first bytes.
    """

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.errors: dict[str, Exception] = {}
        self.cut: dict[str, Exception] = {}
        self.length: dict[str, int] = {}
        self.opened: list[str] = []
        self.open_now = 0
        self.most_at_once = 0
        self.flows = asyncio.Event()
        self.flows.set()

    def can_read(self, upstream: Upstream, key: TaskKey, output: Output) -> bool:
        """Whether there is a link."""
        return output.url is not None

    @asynccontextmanager
    async def open(
        self, upstream: Upstream, key: TaskKey, output: Output, *, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[OutputFile]:
        """See `OutputSource`."""
        assert output.url is not None
        self.opened.append(output.url)
        if output.url in self.errors:
            raise self.errors[output.url]
        content = self.content.get(output.url)
        if content is None:
            raise UpstreamRefused("the link has expired", provider_status=403)
        self.open_now += 1
        self.most_at_once = max(self.most_at_once, self.open_now)
        try:
            length = self.length.get(output.url, len(content))
            yield OutputFile(200, {"content-type": "video/webm"}, length, self._read(output.url, content))
        finally:
            self.open_now -= 1

    async def _read(self, url: str, content: bytes) -> AsyncIterator[bytes]:
        yield content[:2000]
        await self.flows.wait()
        if url in self.cut:
            raise self.cut[url]
        yield content[2000:]
