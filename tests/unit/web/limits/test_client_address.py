"""Whose address counts: nobody chooses their own by writing a header."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.web.limits.client_address import UNKNOWN_ADDRESS, ClientAddresses

TRUSTED = ["10.0.0.0/8", "192.0.2.7", "fd00::/8"]


def scope(peer: str | None, *headers: tuple[str, str]) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {"client": (peer, 1) if peer is not None else None, "headers": raw}


def of(peer: str | None, *headers: tuple[str, str], trusted: list[str] = TRUSTED) -> str:
    return ClientAddresses(trusted).of(scope(peer, *headers))


XFF, FWD = "X-Forwarded-For", "Forwarded"


def test_without_trusted_proxies_headers_say_nothing() -> None:
    assert of("10.0.0.1", (XFF, "198.51.100.9"), trusted=[]) == "10.0.0.1"


def test_a_peer_that_is_no_proxy_of_ours_is_itself_whatever_it_says() -> None:
    assert of("198.51.100.1", (XFF, "203.0.113.9"), (FWD, "for=203.0.113.9")) == "198.51.100.1"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(XFF, "198.51.100.9")], "198.51.100.9"),
        ([(XFF, "6.6.6.6, 198.51.100.9")], "198.51.100.9"),
        ([(XFF, "6.6.6.6, 198.51.100.9, 10.1.1.1, 192.0.2.7")], "198.51.100.9"),
        ([(XFF, "6.6.6.6"), (XFF, "198.51.100.9")], "198.51.100.9"),
        ([(XFF, "198.51.100.9:4711")], "198.51.100.9"),
        ([(XFF, "::ffff:198.51.100.9")], "198.51.100.9"),
        ([(XFF, "10.9.9.9, 10.1.1.1")], "10.9.9.9"),
        ([(XFF, "198.51.100.9, nonsense")], "10.0.0.1"),
        ([(XFF, "198.51.100.9, unknown, 10.1.1.1")], "10.1.1.1"),
        ([(XFF, "")], "10.0.0.1"),
        ([(FWD, "for=198.51.100.9")], "198.51.100.9"),
        ([(FWD, 'for=6.6.6.6, For="198.51.100.9:80";proto=https;by=10.0.0.1')], "198.51.100.9"),
        ([(FWD, 'proto=https; for="[2001:db8:1:2:3::4]:4711"')], "2001:db8:1:2::/64"),
        ([(FWD, "for=_hidden")], "10.0.0.1"),
        ([(FWD, "for=unknown, for=10.1.1.1")], "10.1.1.1"),
        ([(XFF, "198.51.100.9"), (FWD, "for=198.51.100.9")], "198.51.100.9"),
        ([(XFF, "198.51.100.9"), (FWD, "for=6.6.6.6")], "10.0.0.1"),
    ],
)
def test_a_proxy_of_ours_is_believed_up_to_the_first_stranger(
    headers: list[tuple[str, str]], found: str
) -> None:
    assert of("10.0.0.1", *headers) == found


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    assert of("2001:db8:1:2::1") == of("2001:db8:1:2:ffff::9%eth0") != of("2001:db8:1:3::1")


@pytest.mark.parametrize("peer", [None, "", "/run/bridge.sock"])
def test_whoever_has_no_address_is_nobody(peer: str | None) -> None:
    assert of(peer, (XFF, "198.51.100.9")) == UNKNOWN_ADDRESS


def test_what_is_no_network_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        ClientAddresses(["proxy.example.com"])


addresses = st.ip_addresses().map(str)
strangers = addresses.filter(lambda one: not any(_in(one, net) for net in TRUSTED))
proxies = st.sampled_from(["10.0.0.1", "10.200.3.4", "192.0.2.7", "fd00::1"])


def _in(address: str, net: str) -> bool:
    read = ip_address(address)
    read = getattr(read, "ipv4_mapped", None) or read
    return read in ip_network(net)


@given(st.text(st.characters(codec="latin-1"), max_size=80), strangers, st.lists(proxies, max_size=4))
@example("6.6.6.6,", "198.51.100.9", [])
def test_what_a_client_writes_before_its_proxy_does_never_changes_its_address(
    written: str, client: str, between: list[str]
) -> None:
    honest = of("10.0.0.1", (XFF, ", ".join([client, *between])))
    assert of("10.0.0.1", (XFF, ", ".join([written, client, *between]))) == honest
    assert honest == of(client, trusted=[])


@given(
    st.sampled_from([XFF, FWD]),
    st.text(st.characters(codec="latin-1"), max_size=120) | st.text(',;="[]: for.1', max_size=120),
    st.sampled_from(["10.0.0.1", "fd00::1", "198.51.100.1"]),
)
def test_any_header_gives_an_address_and_no_error(name: str, value: str, peer: str) -> None:
    found = of(peer, (name, value))
    ip_network(found)
    if peer == "198.51.100.1":
        assert found == peer
