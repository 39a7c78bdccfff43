"""Which addresses egress reaches. The kernel's part (this host's own) is asked for real."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.egress.addresses import AddressRule
from orchestrator.egress.routes import leads_away
from tests.own_addresses import own_addresses

ELSEWHERE = AddressRule(away=lambda _: True)  # a host that has none of the addresses

REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192"),
    *("192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::808:808", "100::1"),
    *("2001::1", "2001:0:7f00:1::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::"),
    *("2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fec0::1"),
    *("ff02::1", "ff0e::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.128.0.1",
    "172.32.0.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
NEVER = ["127.0.0.1", "0.0.0.0", "169.254.169.254", "168.63.129.16", "224.0.0.1", "255.255.255.255", "::1", "::"]
NEVER += [
    "fe80::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:1::1",
    "::7f00:1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused(address: str) -> None:
    assert ELSEWHERE.refusal(ip_address(address)) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_not(address: str) -> None:
    assert ELSEWHERE.refusal(ip_address(address)) is None


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
@example(IPv4Address("168.63.129.16"))
def test_an_ipv4_address_that_is_refused_is_refused_in_every_form_of_ipv6_that_holds_it(address: IPv4Address) -> None:
    refused = ELSEWHERE.refusal(address) is not None
    assert refused or (address.is_global and not address.is_multicast and not address.is_reserved)
    number = int(address)
    for form in (0xFFFF << 32 | number, int(IPv6Address("64:ff9b::")) | number):
        assert (ELSEWHERE.refusal(IPv6Address(form)) is not None) == refused
    for form in (
        number,
        0x2002 << 112 | number << 80,
        0x20010000 << 96 | number << 64,
        0x20010000 << 96 | number ^ 0xFFFFFFFF,
    ):
        assert ELSEWHERE.refusal(IPv6Address(form)) is not None


@given(
    st.integers(0, 2**128 - 1).map(IPv6Address) | st.integers(0, 2**125 - 1).map(lambda n: IPv6Address(1 << 125 | n))
)
def test_an_ipv6_address_that_is_not_refused_is_global_unicast(address: IPv6Address) -> None:
    if ELSEWHERE.refusal(address) is None:
        assert address in ip_network("2000::/3")
        assert address.is_global
        assert (address.sixtofour, address.teredo) == (None, None)


def test_networks_that_the_operator_allows_are_reached_and_those_denied_are_not() -> None:
    rule = AddressRule(
        [ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")], [ip_network("8.8.0.0/16")], away=lambda _: True
    )
    assert rule.refusal(ip_address("10.1.2.3")) is None
    assert rule.refusal(ip_address("::ffff:10.1.2.3")) is None
    assert rule.refusal(ip_address("fd00:1::1")) is None
    assert rule.refusal(ip_address("10.2.0.1")) is not None
    assert rule.refusal(ip_address("8.8.8.8")) is not None
    assert rule.refusal(ip_address("64:ff9b::808:808")) is not None


@pytest.mark.parametrize("address", NEVER)
def test_no_setting_opens_loopback_link_local_multicast_or_metadata(address: str) -> None:
    everything = AddressRule([ip_network("0.0.0.0/0"), ip_network("::/0")], away=lambda _: True)
    assert everything.refusal(ip_address(address)) is not None


def test_an_address_of_this_host_is_refused_even_if_its_network_is_allowed() -> None:
    everything = AddressRule([ip_network("0.0.0.0/0"), ip_network("::/0")])
    own = own_addresses()
    assert "127.0.0.1" in own
    for address in own:
        assert not leads_away(ip_address(address))
        assert everything.refusal(ip_address(address)) is not None


def test_the_kernel_is_asked_about_addresses_that_no_interface_shows() -> None:
    assert not leads_away(ip_address("127.1.2.3"))  # all of 127/8 is local
    assert not leads_away(ip_address("255.255.255.255"))
    assert leads_away(ip_address("1.1.1.1"))


def test_where_the_kernel_cannot_be_asked_nothing_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr("orchestrator.egress.routes.socket.socket", refuse)
    assert AddressRule().refusal(ip_address("1.1.1.1")) is not None
