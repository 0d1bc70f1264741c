"""Whose address a request comes from: the headers that anybody can write are believed from trusted proxies alone."""

from ipaddress import ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimit import ConfigError
from ratelimit.integrations.addresses import MAX_HOPS, CallerAddress

PROXIES = ["10.0.0.0/8", "2001:db8:ffff::/48"]
caller = CallerAddress(PROXIES)

X, F = "x_forwarded_for", "forwarded"

CASES = {
    # The peer.
    "no header": ("192.0.2.1", {}, "192.0.2.1"),
    "a unix socket": (None, {}, None),
    "a unix socket of a WSGI server": ("", {}, None),
    "a unix socket is no trusted proxy": (None, {X: ["6.6.6.6"], F: ["for=6.6.6.6"]}, None),
    "a server took junk for the peer": ("junk", {X: ["6.6.6.6"]}, None),
    "a peer of 100 characters": ("1" * 100, {}, None),
    "a peer mapped into IPv6": ("::ffff:192.0.2.1", {}, "192.0.2.1"),
    "an IPv6 peer": ("2001:db8:1:2:3:4:5:6", {}, "2001:db8:1:2::/64"),
    "an IPv6 peer with a zone": ("fe80::1%eth0", {}, "fe80::/64"),
    "the proxy itself": ("10.0.0.1", {}, "10.0.0.1"),
    "an IPv6 proxy itself": ("2001:db8:ffff::1", {}, "2001:db8:ffff::/64"),
    # Whom to believe.
    "spoofed": ("192.0.2.1", {X: ["6.6.6.6"], F: ["for=6.6.6.6"]}, "192.0.2.1"),
    "spoofed through a proxy": ("10.0.0.1", {X: ["6.6.6.6, 9.9.9.9"]}, "9.9.9.9"),
    "chained": ("10.0.0.1", {X: ["6.6.6.6, 9.9.9.9, 10.1.2.3"]}, "9.9.9.9"),
    "chained, Forwarded": ("10.0.0.1", {F: ["for=6.6.6.6, for=9.9.9.9;proto=https, for=10.1.2.3"]}, "9.9.9.9"),
    "a trusted proxy mapped into IPv6": ("::ffff:10.0.0.1", {X: ["9.9.9.9, ::ffff:10.1.2.3"]}, "9.9.9.9"),
    "a trusted proxy of IPv6": ("2001:db8:ffff::1", {X: ["9.9.9.9, 2001:db8:ffff:1::9"]}, "9.9.9.9"),
    "all of them trusted": ("10.0.0.1", {X: ["10.3.3.3, 10.1.2.3"]}, "10.3.3.3"),
    "the server has rewritten the peer": ("9.9.9.9", {X: ["6.6.6.6, 9.9.9.9"]}, "9.9.9.9"),
    "the server has rewritten the peer to a proxy": ("10.1.2.3", {X: ["6.6.6.6, 9.9.9.9, 10.1.2.3"]}, "9.9.9.9"),
    "two lines": ("10.0.0.1", {X: ["6.6.6.6", "9.9.9.9"]}, "9.9.9.9"),
    "two lines, all of the last trusted": ("10.0.0.1", {X: ["6.6.6.6, 9.9.9.9", "10.1.2.3, 10.1.2.4"]}, "9.9.9.9"),
    # Both headers, one of which the proxy may have passed on unread.
    "both agree": ("10.0.0.1", {X: ["9.9.9.9"], F: ["for=9.9.9.9"]}, "9.9.9.9"),
    "both agree on a chain": ("10.0.0.1", {X: ["9.9.9.9, 10.2.2.2"], F: ["for=9.9.9.9, for=10.2.2.2"]}, "9.9.9.9"),
    "Forwarded is made up": ("10.0.0.1", {X: ["9.9.9.9"], F: ["for=6.6.6.6"]}, "10.0.0.1"),
    "X-Forwarded-For is made up": ("10.0.0.1", {X: ["6.6.6.6"], F: ["for=9.9.9.9"]}, "10.0.0.1"),
    "they agree on a proxy": ("10.0.0.1", {X: ["9.9.9.9, 10.2.2.2"], F: ["for=6.6.6.6, for=10.2.2.2"]}, "10.2.2.2"),
    # Forms.
    "a port": ("10.0.0.1", {X: ["9.9.9.9:4000"]}, "9.9.9.9"),
    "brackets": ("10.0.0.1", {X: ["[2001:db8::1]"]}, "2001:db8::/64"),
    "brackets and a port": ("10.0.0.1", {X: ["[2001:db8::1]:4000"]}, "2001:db8::/64"),
    "bare IPv6": ("10.0.0.1", {X: ["2001:db8::1"]}, "2001:db8::/64"),
    "mapped": ("10.0.0.1", {X: ["::ffff:9.9.9.9"]}, "9.9.9.9"),
    "mapped, in hexadecimals": ("10.0.0.1", {X: ["::ffff:909:909"]}, "9.9.9.9"),
    "spaces and tabs": ("10.0.0.1", {X: ["6.6.6.6,\t 9.9.9.9 \t"]}, "9.9.9.9"),
    "quoted": ("10.0.0.1", {F: ['for="9.9.9.9"']}, "9.9.9.9"),
    "quoted, with a port": ("10.0.0.1", {F: ['for="9.9.9.9:4000"']}, "9.9.9.9"),
    "quoted IPv6": ("10.0.0.1", {F: ['For="[2001:db8:cafe::17]:4711"']}, "2001:db8:cafe::/64"),
    "quoted with backslashes": ("10.0.0.1", {F: [r'for="9.9.9\.9"']}, "9.9.9.9"),
    "a hidden port": ("10.0.0.1", {F: ['for="9.9.9.9:_http"']}, "9.9.9.9"),
    "parameters around": ("10.0.0.1", {F: ['proto=http; by=10.0.0.1 ;FOR=9.9.9.9;host="a;b"']}, "9.9.9.9"),
    # What says nothing: the proxy that wrote it is the last that is known.
    "unknown": ("10.0.0.1", {F: ["for=6.6.6.6, for=unknown"]}, "10.0.0.1"),
    "unknown, further away": ("10.0.0.1", {F: ["for=6.6.6.6, for=unknown, for=10.1.2.3"]}, "10.1.2.3"),
    "an obfuscated identifier": ("10.0.0.1", {F: ["for=_gazonk"]}, "10.0.0.1"),
    "unknown in X-Forwarded-For": ("10.0.0.1", {X: ["6.6.6.6, unknown"]}, "10.0.0.1"),
    "no `for`": ("10.0.0.1", {F: ["for=6.6.6.6, proto=https"]}, "10.0.0.1"),
    "two `for`": ("10.0.0.1", {F: ["for=6.6.6.6;for=9.9.9.9"]}, "10.0.0.1"),
    "`for` within a host that the caller wrote": ("10.0.0.1", {F: ['host=";for=6.6.6.6"']}, "10.0.0.1"),
    "an element within a host": ("10.0.0.1", {F: ['for=9.9.9.9;host="x, for=6.6.6.6"']}, "10.0.0.1"),
    "an element and a quote within a host": ("10.0.0.1", {F: [r'for=9.9.9.9;host="x,for=6.6.6.6;a=\""']}, "10.0.0.1"),
    "junk": ("10.0.0.1", {X: ["6.6.6.6, junk"]}, "10.0.0.1"),
    "an empty header": ("10.0.0.1", {X: [""], F: [""]}, "10.0.0.1"),
    "an empty element": ("10.0.0.1", {X: ["6.6.6.6, , 10.1.2.3"]}, "10.1.2.3"),
    "an empty last line": ("10.0.0.1", {X: ["9.9.9.9", ""]}, "10.0.0.1"),
    "no closing bracket": ("10.0.0.1", {X: ["[2001:db8::1"]}, "10.0.0.1"),
    "IPv4 in brackets": ("10.0.0.1", {X: ["[9.9.9.9]"]}, "10.0.0.1"),
    "a port that is none": ("10.0.0.1", {X: ["9.9.9.9:port"]}, "10.0.0.1"),
    "leading zeros": ("10.0.0.1", {X: ["009.9.9.9"]}, "10.0.0.1"),
    "digits of another script": ("10.0.0.1", {X: ["9.9.9.٩"]}, "10.0.0.1"),
    "not UTF-8": ("10.0.0.1", {X: ["9.9.9.9\xff"]}, "10.0.0.1"),
    "an open quote": ("10.0.0.1", {F: ['for="9.9.9.9']}, "10.0.0.1"),
    "an open quote before the proxy's element": ("10.0.0.1", {F: ['for="6.6.6.6, for=9.9.9.9']}, "9.9.9.9"),
    "an open quote in the line before": ("10.0.0.1", {F: ['for="6.6.6.6', "for=9.9.9.9"]}, "9.9.9.9"),
    "60 kB of junk": ("10.0.0.1", {X: ["j" * 60_000], F: ["j" * 60_000]}, "10.0.0.1"),
    "60 kB of commas": ("10.0.0.1", {X: ["," * 60_000], F: ["," * 60_000]}, "10.0.0.1"),
    "60 kB of spaces": ("10.0.0.1", {F: ["for=9.9.9.9" + " " * 60_000 + "x"]}, "10.0.0.1"),
    "60 kB before the proxy's element": ("10.0.0.1", {X: ["1.1.1.1," * 7_500 + " 9.9.9.9"]}, "9.9.9.9"),
    "many hops": ("10.0.0.1", {X: ["9.9.9.9, 10.2.2.2" + ", 10.1.1.1" * (MAX_HOPS - 2)]}, "9.9.9.9"),
    "too many hops": ("10.0.0.1", {X: ["9.9.9.9, 10.2.2.2" + ", 10.1.1.1" * (MAX_HOPS - 1)]}, "10.2.2.2"),
    "too many hops, a line each": (
        "10.0.0.1",
        {X: ["9.9.9.9", "10.2.2.2", *["10.1.1.1"] * (MAX_HOPS - 1)]},
        "10.2.2.2",
    ),
}


@pytest.mark.parametrize(("peer", "headers", "expected"), CASES.values(), ids=CASES)
def test_cases(peer, headers, expected):
    """As the table says."""
    assert caller(peer, **headers) == expected


def test_without_trusted_proxies_it_is_the_peer():
    """Also where the peer is on this machine, or on a private network."""
    for peer in ("127.0.0.1", "10.0.0.1", "192.168.1.1"):
        assert CallerAddress()(peer, ["for=6.6.6.6"], ["6.6.6.6"]) == peer


def test_what_connects_to_a_unix_socket_can_be_trusted():
    """A proxy on this machine: then its header counts, and what it does not tell is unknown."""
    local = CallerAddress(["unix", "10.0.0.0/8"])
    assert [local(peer, (), ["6.6.6.6, 9.9.9.9, 10.1.1.1"]) for peer in (None, "")] == ["9.9.9.9"] * 2
    assert [local(None), local(None, ["for=unknown"]), local(None, (), [""])] == [None] * 3
    assert local("192.0.2.1", (), ["6.6.6.6"]) == "192.0.2.1"


def test_one_header_can_be_named():
    """The other one is then whatever the caller wrote, and not read."""
    made_up = ["for=6.6.6.6"], ["9.9.9.9"]
    assert CallerAddress(PROXIES, header="x-forwarded-for")("10.0.0.1", *made_up) == "9.9.9.9"
    assert CallerAddress(PROXIES, header="forwarded")("10.0.0.1", *made_up) == "6.6.6.6"
    assert CallerAddress(PROXIES, header="forwarded")("10.0.0.1", (), ["9.9.9.9"]) == "10.0.0.1"


@pytest.mark.parametrize(
    ("prefix", "expected"), [(128, "2001:db8:1:2:3:4:5:6"), (56, "2001:db8:1::/56"), (48, "2001:db8:1::/48")]
)
def test_the_prefix_of_ipv6(prefix, expected):
    """Who has a network has one address; IPv4 addresses are whole, whatever the prefix."""
    by_prefix = CallerAddress(ipv6_prefix=prefix)
    assert by_prefix("2001:db8:1:2:3:4:5:6") == expected
    assert by_prefix("192.0.2.1") == by_prefix("::ffff:192.0.2.1") == "192.0.2.1"


def test_addresses_of_one_network_are_one_caller():
    """2^64 addresses that somebody may choose from are one."""
    assert {caller(f"2001:db8:1:2::{number:x}") for number in range(1, 5000)} == {"2001:db8:1:2::/64"}


def test_zones_do_not_tell_callers_apart():
    """A zone is a name on this machine; in a header anybody can make one up."""
    whole = CallerAddress(PROXIES, ipv6_prefix=128)
    assert {whole("10.0.0.1", (), [f"2001:db8::1%zone{number}"]) for number in range(3)} == {"2001:db8::1"}


def test_one_trusted_address_of_ipv6_is_one():
    """Others of the network that counts as one caller are not trusted with it."""
    one = CallerAddress(["2001:db8::1"])
    headers = (), ["9.9.9.9"]
    assert [one("2001:db8::1", *headers), one("2001:db8::2", *headers)] == ["9.9.9.9", "2001:db8::/64"]


def test_trusted_networks_in_other_forms():
    """An address alone, a network object, IPv4 mapped into IPv6."""
    for trusted in (["10.0.0.1"], [ip_network("10.0.0.0/30")], ["::ffff:10.0.0.0/126"], iter(["10.0.0.1/32"])):
        assert CallerAddress(trusted)("10.0.0.1", (), ["9.9.9.9"]) == "9.9.9.9"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"trusted": "10.0.0.0/8"}, "trusted: must be a list of networks, not '10.0.0.0/8'"),
        ({"trusted": 10}, "trusted: must be a list of networks, not 10"),
        ({"trusted": [10]}, "trusted: cannot be 10: write networks of your own proxies, such as '10.0.0.0/8'"),
        ({"trusted": ["10.0.0.1/8"]}, "trusted: cannot be '10.0.0.1/8' (10.0.0.1/8 has host bits set): write networks"),
        ({"trusted": ["proxy.local"]}, "trusted: cannot be 'proxy.local' ("),
        ({"trusted": ["*"]}, "trusted: cannot be '*': whoever sends a request could choose its address; write"),
        ({"trusted": ["0.0.0.0/0"]}, "trusted: cannot be '0.0.0.0/0': whoever sends a request could choose its addr"),
        ({"trusted": ["::/0"]}, "trusted: cannot be '::/0': whoever sends a request could choose its address"),
        ({"trusted": ["::ffff:0:0/96"]}, "trusted: cannot be '::ffff:0:0/96': whoever sends a request could choose"),
        ({"ipv6_prefix": 0}, "ipv6_prefix: must be from 1 to 128, not 0"),
        ({"ipv6_prefix": 129}, "ipv6_prefix: must be from 1 to 128, not 129"),
        ({"ipv6_prefix": "64"}, "ipv6_prefix: must be a whole number, not '64'"),
        ({"header": "x-real-ip"}, "header: must be one of forwarded, x-forwarded-for, not 'x-real-ip'"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, problem):
    """Each error names the field, the value and what to write."""
    with pytest.raises(ConfigError) as raised:
        CallerAddress(**arguments)
    assert str(raised.value).startswith(problem)


def test_memory_stays_bounded():
    """What callers make up is forgotten again, and long texts are not kept at all."""
    fresh = CallerAddress(PROXIES)
    for number in range(10_000):
        fresh(f"junk {number}" * 20, (), [f"junk {number}" * 20])
    assert fresh._hop.cache_info().currsize == 0
    for number in range(10_000):
        fresh("10.0.0.1", (), [f"made up {number}"])
    info = fresh._hop.cache_info()
    assert info.currsize == info.maxsize == 4096


texts = st.text(max_size=40) | st.sampled_from(
    (
        'for="',
        "for=6.6.6.6",
        "6.6.6.6",
        "10.1.1.1",
        '"',
        "\\",
        ";",
        "unknown",
        "for=_x",
        "[::1",
        "",
        " ",
        "for=10.1.1.1",
    )
)
made_up = st.lists(texts, max_size=6).map(",".join)
lines = st.lists(made_up, max_size=3)
real = st.sampled_from(("9.9.9.9", "2001:db8::9", "::ffff:9.9.9.9"))
proxies = st.lists(st.sampled_from(("10.1.1.1", "10.2.2.2", "2001:db8:ffff::2")), max_size=4)


def headers_of(address, hops, before, before_here):
    """Both headers as trusted proxies write them, after lines that the caller made up, the last of them theirs too."""
    elements = [address, *hops]
    quoted = [f'for="[{each}]:80"' if ":" in each else f"for={each};proto=http" for each in elements]
    written = {X: ", ".join(elements), F: ",".join(quoted)}
    return {name: [*before, f"{before_here},{value}"] for name, value in written.items()}


@given(lines, made_up, real, proxies)
@example(['for="'], 'for="6.6.6.6', "9.9.9.9", ["10.1.1.1"])
def test_what_a_caller_makes_up_never_changes_the_result(before, before_here, address, hops):
    """Whatever stands left of the caller's own address, in the same line or in lines before; of one header or both."""
    expected = "2001:db8::/64" if address == "2001:db8::9" else "9.9.9.9"
    headers = headers_of(address, hops, before, before_here)
    assert caller("10.0.0.1", **headers) == expected
    for name in headers:
        assert caller("10.0.0.1", **{name: headers[name]}) == expected


@given(lines, lines, st.none() | texts)
def test_nothing_raises_and_nothing_is_made_up(forwarded, x_forwarded_for, peer):
    """Any texts: the result is an address or a network, and that of an untrusted peer whatever the headers say."""
    for networks in (PROXIES, [*PROXIES, "unix"]):
        result = CallerAddress(networks)(peer, forwarded, x_forwarded_for)
        assert result is None or str(ip_network(result)).removesuffix("/32") == result
    assert caller("192.0.2.1", forwarded, x_forwarded_for) == "192.0.2.1"
