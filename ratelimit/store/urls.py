"""The URL of a server, validated before redis-py parses it.

The errors of redis-py and of URL parsers may show a part of the password; ours show nothing of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ratelimit.errors import ConfigError

MAX_TIMEOUT_S = 2**31 // 1000 - 1
"""The longest timeout of a socket in Python: beyond, the milliseconds overflow, and it waits for less or for ever."""

_ACCEPTED = (
    "write redis://USER:PASSWORD@HOST:PORT/DB, redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DB, "
    "redis://USER:PASSWORD@HOST:PORT,HOST:PORT?cluster=true, rediss:// and rediss+sentinel:// likewise, "
    "or unix://USER:PASSWORD@/SOCKET?db=DB, and "
    "percent-encode what is special in a user or password (/ as %2F, ? as %3F, # as %23, @ as %40)"
)
_SCHEMES = r"rediss?|rediss?\+sentinel|unix"
_URL = re.compile(rf"({_SCHEMES})://(?:([^/?#]*)@)?([^/?#]*)(/[^?#]*)?(?:\?([^#]*))?")
_HOST_AND_PORT = re.compile(r"([\w.~-]+|\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\])(?::([0-9]{0,5}))?")
_DATABASE = re.compile(r"/?|/[0-9]{1,9}/?")
_SERVICE = re.compile(r"/([^/]*)(.*)")
_PORT, _SENTINEL_PORT = 6379, 26_379


def _whole_number(least: int, most: int) -> Callable[[str], bool]:
    return lambda text: text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most


def _seconds(text: str) -> bool:
    try:
        return 0 < float(text) <= MAX_TIMEOUT_S
    except ValueError:
        return False


def _one_of(*choices: str) -> Callable[[str], bool]:
    return lambda text: text.casefold() in choices


_FLAG = ("true or false", _one_of("true", "false", "yes", "no", "1", "0"))
_SECONDS = (f"seconds above 0, at most {MAX_TIMEOUT_S}", _seconds)
_TEXT = ("a text", str.isprintable)
_OPTIONS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "db": ("a whole number", _whole_number(0, 10**9)),
    "username": _TEXT,
    "password": ("a text", lambda _: True),
    "client_name": ("a text without blanks", lambda text: text.isprintable() and " " not in text),
    "protocol": ("2 or 3", _one_of("2", "3")),
    "max_connections": ("a whole number from 1 to 65535", _whole_number(1, 65_535)),
    "timeout": _SECONDS,
    "socket_timeout": _SECONDS,
    "socket_connect_timeout": _SECONDS,
    "socket_keepalive": _FLAG,
    "health_check_interval": ("whole seconds", _whole_number(0, MAX_TIMEOUT_S)),
    "decode_responses": _FLAG,
}
_TLS_OPTIONS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_certfile": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _TEXT,
    "ssl_ciphers": _TEXT,
    "ssl_cert_reqs": ("none, optional or required", _one_of("none", "optional", "required")),
    "ssl_check_hostname": _FLAG,
    "ssl_min_version": ("771 (TLS 1.2) or 772 (1.3)", _one_of("771", "772")),
}
_SENTINEL_OPTIONS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "sentinel_username": _TEXT,
    "sentinel_password": ("a text", lambda _: True),
}
_SLOT_OPTIONS: dict[str, tuple[str, Callable[[str], bool]]] = {"cluster": _FLAG, "slots": _FLAG}
"""Ours, not of redis-py: that the server is a node of a cluster, or enforces slots behind its one address."""
_NOT_OF_SENTINEL = {"timeout"}
"""The time to wait for a free connection: redis-py's pools of a Sentinel's service do not wait."""
_YES = {"true", "yes", "1"}


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What a URL says of a primary that Sentinels name, and of them.

    Attributes:
        sentinels: Host and port of each.
        service: The name by which they know the primary and its replicas.
        primary: A URL with the scheme, user, password, database and options of connections to the primary.
        username: The user at the Sentinels.
        password: That user's password.
    """

    sentinels: tuple[tuple[str, int], ...]
    service: str
    primary: str = field(repr=False)
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """What a URL says of a cluster.

    Attributes:
        start_nodes: Host and port of each node that it names.
        node: A URL of the first of them, with user, password and options.
    """

    start_nodes: tuple[tuple[str, int], ...]
    node: str = field(repr=False)


def validate_url(url: object) -> str:
    """Return the URL of a server; raise ConfigError, which shows nothing of it, if it is none."""
    if not isinstance(url, str):
        raise ConfigError(f"must be text, not of the type {type(url).__name__}", field="url")
    problem = _problem(url)
    if problem is not None:
        raise url_error(problem)
    return url


def url_error(problem: str) -> ConfigError:
    """Return the error for a URL, with what is accepted."""
    return ConfigError(f"cannot be used: {problem}; {_ACCEPTED}", field="url")


def sentinel_url(url: str) -> SentinelUrl | None:
    """Return the parts of a valid URL that names Sentinels; None for any other."""
    match = _URL.fullmatch(url)
    path = match and _SERVICE.fullmatch(match[4] or "")
    if match is None or path is None or not _names_sentinels(match[1]):
        return None
    scheme, user, hosts, _, options = match.groups()
    service, database = path.groups()
    pairs = _pairs(options)
    credentials = [pairs.pop(name, None) for name in _SENTINEL_OPTIONS]
    login = "" if user is None else f"{user}@"
    return SentinelUrl(
        tuple(_host_and_port(each, _SENTINEL_PORT) for each in hosts.split(",")),
        unquote(service),
        f"{scheme.removesuffix('+sentinel')}://{login}primary{database}?{urlencode(pairs, quote_via=quote)}",
        *credentials,
    )


def cluster_url(url: str) -> ClusterUrl | None:
    """Return the parts of a valid URL that names nodes of a cluster; None for any other."""
    match = _URL.fullmatch(url)
    if match is None or not _is_set("cluster", match[5]):
        return None
    scheme, user, hosts, _, _ = match.groups()
    first, *_ = hosts.split(",")
    node = f"{scheme}://{'' if user is None else f'{user}@'}{first}"
    return ClusterUrl(
        tuple(_host_and_port(each, _PORT) for each in hosts.split(",")), f"{node}?{_without_slot_options(match[5])}"
    )


def server_url(url: str) -> tuple[str, bool]:
    """Return the valid URL of one server as redis-py reads it, and whether it says that the server enforces slots."""
    head, mark, options = url.partition("?")
    if not any(f"{name}=" in options for name in _SLOT_OPTIONS):
        return url, False
    return f"{head}{mark}{_without_slot_options(options)}", _is_set("slots", options)


def _is_set(flag: str, options: str | None) -> bool:
    return _pairs(options).get(flag, "").casefold() in _YES


def _without_slot_options(options: str | None) -> str:
    pairs = {name: text for name, text in _pairs(options).items() if name not in _SLOT_OPTIONS}
    return urlencode(pairs, quote_via=quote)


def _pairs(options: str | None) -> dict[str, str]:
    return dict(reversed(parse_qsl(options or "")))  # of two, redis-py takes the first


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, ""
    return unquote(host.strip("[]")), int(port or default_port)


def _names_sentinels(scheme: str) -> bool:
    return scheme.endswith("+sentinel")


def redact_url(url: str) -> str:
    """Return a URL without user, password and options, to be shown."""
    match = _URL.fullmatch(url)
    if match is None or _problem(url) is not None:
        return "the URL that was given"
    scheme, _, host, path, _ = match.groups()
    return f"{scheme}://{host}{path or ''}"


def _problem(url: str) -> str | None:
    """Return what is wrong with a URL, without a part of it; None if nothing is."""
    if not url.isprintable():
        return "it holds a control character, or half a character"
    match = _URL.fullmatch(url)
    if match is None:
        if re.match(f"({_SCHEMES})://", url) is not None:
            return "it holds a #"
        return "it does not begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://"
    scheme, user, host, path, options = match.groups()
    path = path or ""
    # A password with a special character in it ends too early: no rest of it may be taken for a host, path or option.
    is_part_of_user = scheme != "unix" or host or user is not None or ":" in path.rpartition("@")[0]
    if "@" in (options or "") or ("@" in path and is_part_of_user):
        return "an @ stands behind a / or ?, where it must be written %40: does the user or password hold one of these"
    if scheme == "unix":
        problem = _problem_of_socket(host, path)
    elif _names_sentinels(scheme):
        problem = _problem_of_hosts(host, "Sentinel") or _problem_of_service(path)
    elif _is_set("cluster", options):
        problem = _problem_of_hosts(host, "node")
    else:
        problem = _problem_of_host(host, path)
    return problem or _problem_of_slots(scheme, path, options) or _problem_of_options(options or "", scheme)


def _problem_of_slots(scheme: str, path: str, options: str | None) -> str | None:
    pairs = _pairs(options)
    if _names_sentinels(scheme) and pairs.keys() & _SLOT_OPTIONS.keys():
        return "its options cluster and slots are not for Sentinels: a cluster fails over by itself, so name its nodes"
    if not _is_set("cluster", options):
        return None
    if scheme == "unix":
        return "its option cluster is for redis:// and rediss://: the nodes of a cluster are not behind one socket"
    if path.strip("/") not in ("", "0") or pairs.get("db", "0") != "0":
        return "a cluster has database 0 alone: leave the number out"
    return None


def _problem_of_socket(host: str, path: str) -> str | None:
    if host:
        return "the path of the socket must be whole: a / belongs directly behind unix:// or the @"
    if not path.strip("/"):
        return "it names no socket"
    return None if unquote(path).isprintable() else "the path of the socket holds a control character"


def _problem_of_host(host: str, path: str) -> str | None:
    if not _is_host_and_port(host):
        return "behind // or the @ must stand a host, and behind a : its port, from 1 to 65535"
    if _DATABASE.fullmatch(path) is None:
        return "behind the / must stand the number of a database"
    return None


def _is_host_and_port(text: str) -> bool:
    match = _HOST_AND_PORT.fullmatch(text)
    return match is not None and 1 <= int(match[2] or "1") <= 65_535


def _problem_of_hosts(hosts: str, kind: str) -> str | None:
    if not hosts:
        return f"it names no {kind}: behind // or the @ must stand at least one HOST:PORT"
    for each in hosts.split(","):
        if not each or re.fullmatch(":[0-9]*", each):
            return f"in its list of {kind}s, HOST:PORT,HOST:PORT, a host is missing"
        if not _is_host_and_port(each):
            return (
                f"each of its {kind}s must be a host (an IPv6 address in []), and behind a : its port, from 1 to 65535"
            )
    return None


def _problem_of_service(path: str) -> str | None:
    match = _SERVICE.fullmatch(path)
    service = "" if match is None else unquote(match[1])
    if match is None or not service.strip() or not service.isprintable():
        return "behind the Sentinels must stand the service, by the name that they know: /SERVICE or /SERVICE/DB"
    return None if _DATABASE.fullmatch(match[2]) else "behind the service must stand the number of a database"


def _problem_of_options(options: str, scheme: str) -> str | None:
    allowed = {**_OPTIONS, **_TLS_OPTIONS} if scheme.startswith("rediss") else _OPTIONS
    if _names_sentinels(scheme):
        allowed = {name: allowed[name] for name in allowed if name not in _NOT_OF_SENTINEL} | _SENTINEL_OPTIONS
    else:
        allowed = {**allowed, **_SLOT_OPTIONS}
    for name, text in parse_qsl(options, keep_blank_values=True):
        if name not in allowed:
            only = " (its options ssl_... are for rediss:// and rediss+sentinel://)" if name in _TLS_OPTIONS else ""
            return f"it has an option that is not known here{only}; known are {', '.join(allowed)}"
        accepted, is_accepted = allowed[name]
        if not is_accepted(text):
            return f"its option {name} must be {accepted}"
    return None
