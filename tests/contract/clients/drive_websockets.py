"""PyPI `websockets` on `/v1/ws`. Its iterator reconnects; its user subscribes after the last cursor.

A WebSocket stays open when its tasks are done: leave on `done`.
"""

import asyncio
import json

from report import URL, report
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

BASE, _, REF = URL.removesuffix("/events").partition("/v1/tasks/")


async def main():
    """Follow one task to its end."""
    asked = {"type": "subscribe", "id": 1, "tasks": [REF]}
    url = BASE.replace("http", "ws", 1) + "/v1/ws"
    async for socket in connect(url, subprotocols=["bridge.v1.json"], proxy=None):
        try:
            await socket.send(json.dumps(asked))
            async for text in socket:
                said = json.loads(text)
                if said["type"] == "state":
                    asked["after"] = said["cursor"]
                    report(None, said["cursor"], json.dumps(said["state"]))
                    continue
                report(said["type"], said.get("cursor"), text)
                if said["type"] == "done":
                    return
        except ConnectionClosed as over:
            if not 4000 <= over.rcvd.code < 4500:
                raise


asyncio.run(main())
