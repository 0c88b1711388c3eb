"""PyPI `requests-sse`. It reconnects, after twice the time of `retry:`.

A 204 is an InvalidStatusCodeError and the end.
"""

from report import URL, is_last, report
from requests_sse import EventSource, InvalidStatusCodeError

with EventSource(URL) as source:
    try:
        for event in source:
            report(event.type, event.last_event_id, event.data)
            if is_last(event.type):
                break
    except InvalidStatusCodeError as over:
        if over.status_code != 204:
            raise
