"""PyPI `launchdarkly-eventsource`. It reconnects when told to go on after errors, by delays of its own.

Then it goes on after a 204 as well: leave on `end`.
"""

from ld_eventsource import SSEClient
from ld_eventsource.config import ErrorStrategy
from report import URL, is_last, report

with SSEClient(URL, initial_retry_delay=0.2, error_strategy=ErrorStrategy.always_continue()) as client:
    for event in client.events:
        report(event.event, event.id, event.data)
        if is_last(event.event):
            break
