"""What others chose leads nowhere inside: neither by its text nor by the address it comes to."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Forbidden, InvalidRequest
from bridge.sources.guard import (
    MAX_URL,
    PrivateAddress,
    check_url,
    is_public,
    is_written_out,
    private_hosts_of,
    public_socket,
)

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fd00::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::ffff:0:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::808:808",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "no address",
    "8.8.8.8 ",
    "08.8.8.8",
    "",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]

INSIDE = [
    "https://localhost/",
    "https://LOCALHOST:8443/",
    "https://localhost./",
    "https://redis.localhost/",
    "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
    "https://127.0.0.1/",
    "https://\uff11\uff12\uff17.0.0.1/",
    "https://127。0。0。1/",
    "https://0.0.0.0/",
    "https://10.0.0.1:6379/",
    "https://169.254.169.254/latest/meta-data/",
    "https://100.100.100.200/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]:443/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[2002:7f00:1::]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[ff02::1]/",
]
NUMERIC = ["https://8.8.8.8/hooks", "https://[2606:4700::1]:8443/hooks", "https://[64:ff9b::808:808]/"]
UNENCRYPTED = ["http://receiver.example/", "HTTP://receiver.example/", "http://8.8.8.8/"]
MALFORMED = [
    "",
    "receiver.example",
    "//receiver.example/",
    "/hooks",
    "https:receiver.example",
    "https:/receiver.example",
    "https://",
    "https:///hooks",
    "https://?x",
    "ftp://receiver.example/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "javascript:alert(1)",
    "https://user@receiver.example/",
    "https://user:password@receiver.example/",
    "https://@receiver.example/",
    "https://receiver.example:443@127.0.0.1/",
    "https://127.0.0.1\\@receiver.example/",
    "https://receiver.example\\hooks",
    "https://receiver.example/a b",
    "https://receiver.example/\r\nX-Injected: 1",
    "https://receiver.example/\x00",
    "https://receiver.example/\ud800",
    " https://receiver.example/",
    "https://receiver.example:0/",
    "https://receiver.example:65536/",
    "https://receiver.example:8o/",
    "https://receiver.example:+80/",
    "https://receiver.example:\uff18\uff10/",
    "https://receiver.example:80:90/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.1/",
    "https://0177.0.0.1/",
    "https://127.0.0.01/",
    "https://127.0.0.1./",
    "https://1.2.3.4.5/",
    "https://256.1.1.1/",
    "https://receiver.example.0x/",
    "https://[::1%25lo]/",
    "https://[fe80::1%eth0]/",
    "https://[::1/",
    "https://[v1.a]/",
    "https://[127.0.0.1]/",
    "https://::1/",
    "https://receiver%2eexample/",
    "https://localhost%00.receiver.example/",
    "https://receiver..example/",
    "https://.receiver.example/",
    "https://receiver.example../",
    "https://-receiver.example/",
    "https://receiver.example-/",
    f"https://{'a' * 64}.example/",
    f"https://{'a.' * 127}example/",
    "https://receiver.example\uff0f@127.0.0.1/",
    "https://receiver.example/" + "a" * MAX_URL,
]
ALLOWED = [
    "https://receiver.example",
    "https://receiver.example./hooks",
    "https://RECEIVER.example:8443/hooks?tenant=ä#fragment",
    "https://receiver.example:/",
    "https://münchen.example/",
    "https://my_receiver.example/",
    "https://xn--mnchen-3ya.example/",
    "https://receiver.example/@user\u00e9",
]
NAT64 = ip_network("64:ff9b::/96")
MAPPED = ip_network("::ffff:0:0/96")
NONE = private_hosts_of(())


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_inside_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_outside_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("url", [*INSIDE, *NUMERIC, *UNENCRYPTED])
def test_a_url_that_leads_inside_has_no_name_or_is_not_encrypted_is_forbidden(url: str) -> None:
    with pytest.raises(Forbidden, match="private_hosts") as refused:
        check_url(url, NONE)
    assert url not in str(refused.value)


@pytest.mark.parametrize("url", MALFORMED)
def test_a_url_that_programs_may_read_in_different_ways_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        check_url(url, NONE)
    with pytest.raises(InvalidRequest):
        check_url(url, private_hosts_of(["127.0.0.1", "::1", "*.example", "receiver.example", "localhost"]))


@pytest.mark.parametrize("url", ALLOWED)
def test_a_public_url_is_called_as_it_was_checked(url: str) -> None:
    checked = check_url(url, NONE)
    assert checked.scheme == "https"
    assert not checked.raw_fragment
    assert check_url(str(checked), NONE) == checked


@pytest.mark.parametrize(
    ("item", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000/hooks"),
        ("127.0.0.1", "https://127.0.0.1/"),
        ("::1", "http://[::1]:9000/"),
        ("[::1]", "http://[0:0:0:0:0:0:0:1]/"),
        ("0:0:0:0:0:0:0:1", "http://[::1]/"),
        ("localhost", "http://localhost:9000/"),
        ("LocalHost", "http://LOCALHOST./"),
        ("receiver", "http://receiver:8080/"),
        ("receiver.internal.", "http://receiver.internal/"),
        ("*.svc.cluster.local", "http://app.shop.svc.cluster.local/"),
    ],
)
def test_the_operator_lists_hosts_that_are_inside(item: str, url: str) -> None:
    check_url(url, private_hosts_of([item]))


@pytest.mark.parametrize(
    ("item", "url"),
    [
        ("localhost", "http://127.0.0.1/"),
        ("127.0.0.1", "http://localhost/"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/"),
        ("127.0.0.1", "http://127.0.0.2/"),
        ("*.0.0.1", "http://127.0.0.1/"),
        ("*.internal", "http://internal/"),
        ("receiver.internal", "http://receiver.internal.example/"),
        ("*.internal", "http://internal.example/"),
    ],
)
def test_and_lists_them_as_they_are_written(item: str, url: str) -> None:
    with pytest.raises(Forbidden):
        check_url(url, private_hosts_of([item]))


def test_an_address_written_out_has_no_name_that_could_change() -> None:
    assert [is_written_out(host) for host in ("10.0.0.1", "::1", "localhost", "LOCALHOST")] == [True] * 4
    assert not any(map(is_written_out, ("127.1", "keys.internal", "localhost.example", "")))


@given(st.ip_addresses())
def test_no_socket_is_made_for_what_python_calls_not_global(address: IPv4Address | IPv6Address) -> None:
    _never_inside(address)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["::ffff:0:0", "64:ff9b::", "::", "::ffff:0:0:0"]))
def test_nor_for_one_inside_another(inner: int, outer: str) -> None:
    _never_inside(ip_address(int(IPv6Address(outer)) | inner))


def _never_inside(address: IPv4Address | IPv6Address) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    target = (str(address), 443) if address.version == 4 else (str(address), 443, 0, 0)
    try:
        public_socket((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", target)).close()
    except PrivateAddress:
        return
    if address in NAT64 or address in MAPPED:
        address = IPv4Address(int(address) & (2**32 - 1))
    assert address.is_global
    wrong = ("private", "loopback", "link_local", "multicast", "unspecified", "reserved")
    assert [word for word in wrong if getattr(address, f"is_{word}")] == []


@given(st.text(max_size=20) | st.text("a.:@[]%/\\?#127x0-_\u3002\u200b\uff11é", max_size=20))
def test_any_text_is_refused_or_can_be_called(text: str) -> None:
    for url in (text, f"https://{text}", f"https://a.example{text}"):
        try:
            checked = check_url(url, NONE)
        except (InvalidRequest, Forbidden):
            continue
        assert checked.scheme == "https"
        assert checked.raw_host
        assert checked.raw_user is None
        assert check_url(str(checked), NONE) == checked
