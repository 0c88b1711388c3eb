"""PyPI `aiohttp-sse-client2`. It reconnects, after twice the time of `retry:`.

A 204 is a ConnectionError and the end.
"""

import asyncio

from aiohttp_sse_client2.client import EventSource
from report import URL, is_last, report


async def main():
    """Read until it is over."""
    async with EventSource(URL, timeout=None) as source:
        try:
            async for event in source:
                report(event.type, event.last_event_id, event.data)
                if is_last(event.type):
                    return
        except ConnectionError as over:
            if "204" not in str(over):
                raise


asyncio.run(main())
