"""Parses IP addresses and networks from the configuration."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network


def network(text: str) -> Network:
    """Parse an address or a network; host bits may be set.

    Raises:
        ValueError: `text` is neither.
    """
    return ip_network(text.strip(), strict=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`; False for names other than `localhost`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
