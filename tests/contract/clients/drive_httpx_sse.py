"""PyPI `httpx-sse`. It never reconnects: its user does, with the last id, until `end` was the last word."""

import httpx
from httpx_sse import connect_sse
from report import URL, is_last, report

last_id, ended = "", False
with httpx.Client(timeout=None) as client:
    while not ended:
        with connect_sse(client, "GET", URL, headers={"Last-Event-ID": last_id} if last_id else {}) as source:
            for event in source.iter_sse():
                report(event.event, event.id, event.data)
                last_id = event.id or last_id
                ended = is_last(event.event)
