"""Where a submit may have the end of its task delivered: `webhook_hosts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from yarl import URL

from bridge.errors import Forbidden, RequestError
from bridge.sources.guard import private_hosts_of

_QUEUE = "submit:"


class SubmitReceivers:
    """The hosts, each with a queue of its own, and what signs deliveries to them.

    Args:
        hosts: As in the configuration.
        secret: None for no deliveries.
        check_url: The URL as it is called; raises `InvalidRequest` or `Forbidden` for one that deliveries may
            not be sent to.

    Attributes:
        queues: Of all their deliveries.
        secrets: Those that sign them.
    """

    def __init__(self, hosts: Sequence[str], secret: str | None, check_url: Callable[[str], URL]) -> None:
        self._matchers = {
            f"{_QUEUE}{item}": private_hosts_of([item]) for item in (hosts if secret is not None else ())
        }
        self._check_url = check_url
        self.queues = tuple(self._matchers)
        self.secrets = () if secret is None else (secret,)

    def queue_of(self, url: str) -> str | None:
        """The queue of deliveries to a URL; None if nothing may be delivered there."""
        if not self._matchers:
            return None
        try:
            host = self._check_url(url).raw_host or ""
        except RequestError:
            return None
        return next((queue for queue, matcher in self._matchers.items() if matcher.has(host)), None)

    def check(self, url: str) -> None:
        """Check the URL of a submit.

        Raises:
            Forbidden: Its host is not in `webhook_hosts`.
            InvalidRequest: Nothing may be sent to this URL.
        """
        if self._matchers:
            self._check_url(url)
        if self.queue_of(url) is None:
            raise Forbidden("webhooks of submits may only be at the hosts in `webhook_hosts`")
