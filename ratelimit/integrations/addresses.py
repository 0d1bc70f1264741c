"""The caller's address: the socket's peer, or what trusted proxies say about whom they serve. No I/O.

Whoever sends a request can write anything into `Forwarded` and `X-Forwarded-For`. A proxy adds the address of its own
client on the right. So they are read from the right, and only as long as a trusted proxy wrote what is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import Literal, NamedTuple

from ratelimit import validation
from ratelimit.errors import ConfigError

Header = Literal["forwarded", "x-forwarded-for"]

MAX_HOPS = 32
"""Proxies in a row that are believed; further elements of a header are not read."""

_UNIX = "unix"
_MAX_ADDRESS = 64
_CACHED_ADDRESSES = 4096

_PORT = r"(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]++))?+"
_NODE = re.compile(rf"\[([^\]:]*+:[^\]]*+)\]{_PORT}|([0-9.]++){_PORT}|([^\[\]]*+)")
"""`[2001:db8::1]:80`, `192.0.2.1:80`, or an address alone."""

_PAIR = r"([!#$%&'*+.^_`|~0-9A-Za-z-]++)=(\"(?:[^\"\\]|\\.)*+\"|[^\s\",;=\\]++)"
_ONE_PAIR = re.compile(_PAIR)
_ELEMENT = re.compile(rf"[ \t]*+(?:{_PAIR})?+[ \t]*+(?:;[ \t]*+(?:{_PAIR})?+[ \t]*+)*+")


class _Hop(NamedTuple):
    """One end of a connection: its address, None for a unix socket, and whether it is a trusted proxy."""

    address: str | None
    is_trusted: bool


class CallerAddress:
    """Finds the address of whom a request comes from: call it with what the server says of the request.

    IPv4 addresses are returned as they are, also those that came mapped into IPv6 (`::ffff:192.0.2.1`); IPv6 addresses
    as their network (`2001:db8::/64`), for a caller has a whole one to choose from. What cannot be read is no address:
    then it is the proxy's that passed it on, never one for each text that somebody made up.

    Args:
        trusted: Networks of your own proxies, such as "10.0.0.0/8"; "unix" for whatever connects to a unix socket. With
            none, the caller is the socket's peer.
        ipv6_prefix: How many bits of an IPv6 address tell callers apart, 1 to 128.
        header: The one header that your proxies write. Without it both are read, and believed as far as they agree: a
            proxy passes on unread the one that it does not know.

    Raises:
        ConfigError: One of them cannot be used.
    """

    __slots__ = ("_header", "_hop", "_ipv6_prefix", "_trusted", "_unix")

    def __init__(
        self,
        trusted: Iterable[str | IPv4Network | IPv6Network] = (),
        ipv6_prefix: int = 64,
        header: Header | None = None,
    ) -> None:
        if isinstance(trusted, str | bytes) or not isinstance(trusted, Iterable):
            raise ConfigError(f"must be a list of networks, not {validation.shown(trusted)}", field="trusted")
        items = list(trusted)
        self._trusted = tuple(_network(item) for item in items if item != _UNIX)
        self._unix = _Hop(None, _UNIX in items)
        self._ipv6_prefix = validation.whole(ipv6_prefix, "ipv6_prefix", least=1, below=129)
        self._header = None if header is None else validation.one_of(header, ("forwarded", "x-forwarded-for"), "header")
        self._hop = lru_cache(_CACHED_ADDRESSES)(self._judge)

    def __call__(
        self, peer: str | None, forwarded: Sequence[str] = (), x_forwarded_for: Sequence[str] = ()
    ) -> str | None:
        """Return the caller's address.

        Args:
            peer: Address of whom the server is connected to, or took for it; None or "" on a unix socket.
            forwarded: The values of all `Forwarded` fields (RFC 7239), in their order.
            x_forwarded_for: The values of all `X-Forwarded-For` fields, in their order.

        Returns:
            None if there is none: on a unix socket, or if the peer is no address.
        """
        hop = self._read(peer) if peer else self._unix
        if hop is None or not hop.is_trusted:
            return hop and hop.address
        paths = []
        if forwarded and self._header != "x-forwarded-for":
            paths.append(self._path(forwarded, _node_of_element))
        if x_forwarded_for and self._header != "forwarded":
            paths.append(self._path(x_forwarded_for, str.strip))
        for hops in zip(*paths, strict=False):
            if hops[0] != hops[-1]:
                break
            hop = hops[0]
        return hop.address

    def _path(self, lines: Sequence[str], node_of: Callable[[str], str | None]) -> Iterator[_Hop]:
        """Yield the hops that a header names, from the nearest on, as long as a trusted proxy has named them."""
        for element in islice(_from_the_right(lines), MAX_HOPS):
            node = node_of(element)
            match = _NODE.fullmatch(node) if node else None
            hop = self._read(match[1] or match[2] or match[3]) if match else None
            if hop is None:  # unknown, hidden or malformed
                return
            yield hop
            if not hop.is_trusted:
                return

    def _read(self, address: str) -> _Hop | None:
        return self._hop(address) if len(address) <= _MAX_ADDRESS else None

    def _judge(self, text: str) -> _Hop | None:
        try:
            parsed = ip_address(text)
        except ValueError:
            return None
        address = _unmapped(parsed)
        is_trusted = any(address in network for network in self._trusted)
        if isinstance(address, IPv4Address) or self._ipv6_prefix == address.max_prefixlen:
            return _Hop(str(address), is_trusted)
        return _Hop(str(IPv6Network((address, self._ipv6_prefix), strict=False)), is_trusted)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return an address of which there is one form: IPv4 where it is mapped into IPv6, and without a zone."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _network(item: object) -> IPv4Network | IPv6Network:
    """Return a network of trusted proxies."""
    remedy = "write networks of your own proxies, such as '10.0.0.0/8' or '192.0.2.7'"
    if not isinstance(item, str | IPv4Network | IPv6Network):
        raise ConfigError(f"cannot be {validation.shown(item)}: {remedy}", field="trusted")
    if item == "*":
        raise ConfigError(f"cannot be '*': whoever sends a request could choose its address; {remedy}", field="trusted")
    try:
        network = ip_network(item)
    except ValueError as error:
        raise ConfigError(f"cannot be {validation.shown(item)} ({error}): {remedy}", field="trusted") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        network = IPv4Network((mapped, network.prefixlen - 96))
    if not network.prefixlen:
        problem = f"cannot be {str(item)!r}: whoever sends a request could choose its address"
        raise ConfigError(f"{problem}; {remedy}", field="trusted")
    return network


def _from_the_right(lines: Sequence[str]) -> Iterator[str]:
    """Yield the elements of a header, the last one first.

    They are cut at each comma: no address has one. What stands in quotes with a comma in it is then no element.
    """
    for line in reversed(lines):
        yield from reversed(line.rsplit(",", MAX_HOPS))


def _node_of_element(element: str) -> str | None:
    """Return whom an element of `Forwarded` is about; None if it does not say, or is malformed."""
    if _ELEMENT.fullmatch(element) is None:
        return None
    nodes = [value for name, value in _ONE_PAIR.findall(element) if name.lower() == "for"]
    if len(nodes) != 1:
        return None
    node: str = nodes[0]
    return re.sub(r"\\(.)", r"\1", node[1:-1]) if node.startswith('"') else node
