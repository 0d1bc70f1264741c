"""Who a request comes from: its API key's value, or an identity. No I/O.

What a client sends may be anything: a key header twice, empty, of 100 kB, not UTF-8; a token without the claim. Each
is denied with the one 403 that every key gets which is not accepted, and nothing of it is logged or stored.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any
from urllib.parse import parse_qsl

from ratelimit import validation
from ratelimit.errors import ConfigError
from ratelimit.integrations.addresses import CallerAddress, Header
from ratelimit.model import Caller, Identity
from ratelimit.validation import shown

log = logging.getLogger("ratelimit")

UNACCEPTABLE = " "
"""The value of no key, as those have no blanks: the check denies it as it does any unknown key."""

_MAX_PARAMETERS = 1000
_MAX_TOKEN = 16_384
_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(slots=True)
class RequestData:
    """What an adapter tells of a request, in plain values.

    Attributes:
        verb: Such as "GET"; "GET" for the handshake of a websocket.
        header: Returns the values of all fields of a name, given in lower case, in the order in which they came. One
            character a byte (latin-1), or decoded as the framework does.
        query: The query string, without "?".
        peer: The address of whom the server is connected to, or took for it; None or "" on a unix socket.
        native: The framework's own request, for callables of the user.
    """

    verb: str
    header: Callable[[str], Sequence[str]]
    query: str
    peer: str | None
    native: Any

    @property
    def is_preflight(self) -> bool:
        """Whether a browser asks whether it may send the request itself (CORS)."""
        return bool(self.verb == "OPTIONS" and self.header("origin") and self.header("access-control-request-method"))


class KeySource(ABC):
    """Says who a request comes from; made by `header`, `query`, `bearer` or `address`.

    Attributes:
        plan: Id of the plan of all its identities; None where it gives none, or plans differ.
    """

    plan: str | None = None

    @abstractmethod
    def caller(self, request: RequestData) -> Caller:
        """Return the caller of a request; None if it names none."""


KeyCallable = Callable[[Any], Any]
"""A user's function of the framework's request: returns a key's value, an `Identity` or None; may be asynchronous."""


def header(name: str = "x-api-key") -> KeySource:
    """Read API keys from a header, `x-api-key` by default.

    Raises:
        ConfigError: No header has such a name.
    """
    return _Header(_name(name, "header"))


def query(name: str) -> KeySource:
    """Read API keys from a parameter of the query string. They end up in logs of servers and proxies: prefer headers.

    Raises:
        ConfigError: The name is no text, or empty.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"must be the name of a parameter, not {shown(name)}", field="query")
    return _Query(name)


def bearer(
    verify: Callable[[str], Mapping[str, Any] | None] | None = None,
    *,
    plan: str | Callable[[Mapping[str, Any]], str | None] | None = None,
    claim: str = "sub",
) -> KeySource:
    """Read API keys from `Authorization: Bearer`; or, with `verify`, tokens, each of whose subjects is an identity.

    Args:
        verify: Returns the claims of a token, and raises or returns None if it is not valid; such as
            `lambda token: jwt.decode(token, secret, algorithms=["HS256"])`. Whatever it raises is a 403.
        plan: Id of the plan of all these identities, or a function of the claims that returns it; None is a 403.
        claim: The claim that says who the caller is: text or a whole number. The identity of user 42 is
            `Identity("sub:42", plan)`.

    Raises:
        ConfigError: An argument cannot be used.
    """
    if verify is None:
        if plan is not None:
            raise ConfigError("is for tokens: pass verify= too, a function that returns a token's claims", field="plan")
        return _Bearer()
    if not callable(verify):
        raise ConfigError("must be a function of a token that returns its claims", field="verify")
    if not callable(plan):
        validation.identifier(plan, "plan")
    if not isinstance(claim, str):
        raise ConfigError(f"must be the name of a claim, not {shown(claim)}", field="claim")
    return _VerifiedToken(verify, plan, claim)


def address(
    plan: str, *, trusted: Iterable[Any] = (), ipv6_prefix: int = 64, proxy_header: Header | None = None
) -> KeySource:
    """Take each address for a caller: an identity under a plan. See `CallerAddress` for the arguments.

    Without an address, as on a unix socket that is not trusted, a request names no caller: 403.

    Raises:
        ConfigError: An argument cannot be used.
    """
    return _Address(validation.identifier(plan, "plan"), CallerAddress(trusted, ipv6_prefix, proxy_header))


def validate_key(key: object) -> KeySource | KeyCallable:
    """Return a source of callers; raise ConfigError for what is neither a `KeySource` nor callable."""
    if isinstance(key, KeySource) or callable(key):
        return key
    remedy = "pass header('x-api-key'), query(...), bearer(), address(...) or a function of the request"
    raise ConfigError(f"cannot be {type(key).__name__}: {remedy}", field="key")


def validate_caller(value: object) -> Caller:
    """Return what a user's function returned, if that is a caller; else log that it is none, once for each type."""
    if value is None or isinstance(value, str | Identity):
        return value
    what = f"key: returned a {type(value).__name__}, and not a key's value, an Identity or None"
    warn_once(f"{what}: such requests get 403")
    return UNACCEPTABLE


def failed_caller(error: Exception, what: str = "key") -> Caller:
    """Return the caller for a request about whom a user's function raised."""
    warn_of_error(what, error, "get 403")
    return UNACCEPTABLE


class _Header(KeySource):
    def __init__(self, name: str) -> None:
        self._name = name

    def caller(self, request: RequestData) -> Caller:
        return _only(request.header(self._name))


class _Query(KeySource):
    def __init__(self, name: str) -> None:
        self._name = name

    def caller(self, request: RequestData) -> Caller:
        if not request.query:
            return None
        try:
            pairs = parse_qsl(request.query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
        except ValueError:  # more parameters than anybody needs
            return UNACCEPTABLE
        return _only([value for name, value in pairs if name == self._name])


class _Bearer(KeySource):
    def caller(self, request: RequestData) -> Caller:
        return _bearer_token(request)


class _VerifiedToken(KeySource):
    def __init__(
        self,
        verify: Callable[[str], Mapping[str, Any] | None],
        plan: str | Callable[[Mapping[str, Any]], str | None] | None,
        claim: str,
    ) -> None:
        self._verify, self._claim = verify, claim
        self._plan_of = plan if callable(plan) else None
        self.plan = None if callable(plan) else plan

    def caller(self, request: RequestData) -> Caller:
        token = _bearer_token(request)
        if not token or token == UNACCEPTABLE:
            return token
        if len(token) > _MAX_TOKEN:
            return UNACCEPTABLE
        try:
            claims = self._verify(token)
            if claims is None:
                return UNACCEPTABLE
            plan = self._plan_of(claims) if self._plan_of else self.plan
            subject = claims.get(self._claim)
        except Exception as error:  # noqa: BLE001 - libraries for tokens raise what they like
            return failed_caller(error, "bearer")
        return UNACCEPTABLE if plan is None else _identity(self._claim, subject, plan)


class _Address(KeySource):
    def __init__(self, plan: str, caller_address: CallerAddress) -> None:
        self.plan: str = plan
        self._caller_address = caller_address

    def caller(self, request: RequestData) -> Caller:
        forwarded, x_forwarded_for = request.header("forwarded"), request.header("x-forwarded-for")
        found_address = self._caller_address(request.peer, forwarded, x_forwarded_for)
        return None if found_address is None else Identity(f"address:{found_address}", self.plan)


def _only(values: Sequence[str]) -> str | None:
    """Return the one value that was sent. Of two nobody knows which one was meant, or which one a proxy looked at."""
    if not values:
        return None
    return values[0] if len(values) == 1 else UNACCEPTABLE


def _bearer_token(request: RequestData) -> str | None:
    """Return the token in Authorization; None without one, or with another scheme."""
    value = _only(request.header("authorization"))
    if value is None or value == UNACCEPTABLE:
        return value
    match = _BEARER.fullmatch(value)
    if match is not None:
        return match[1]
    return UNACCEPTABLE if value[:7].lower() == "bearer " else None


def _identity(claim: str, subject: object, plan: object) -> Caller:
    """Return the identity of a token's claims, which may hold anything; "sub:42" is another than "address:..."."""
    if not subject or isinstance(subject, bool) or not isinstance(subject, str | int):
        return UNACCEPTABLE
    try:
        return Identity(f"{claim}:{subject}", plan)  # type: ignore[arg-type]
    except ValueError:  # ConfigError; or a number of thousands of digits
        return UNACCEPTABLE


def _name(name: object, field: str) -> str:
    if not isinstance(name, str) or _TOKEN.fullmatch(name) is None:
        raise ConfigError(f"must be the name of a header, such as 'x-api-key', not {shown(name)}", field=field)
    return name.lower()


_MAX_WARNINGS = 64
_warnings: set[str] = set()


def warn_once(text: str) -> None:
    """Log, once for each text, what a user's code does wrong with some requests."""
    if text not in _warnings and len(_warnings) < _MAX_WARNINGS:
        _warnings.add(text)
        log.warning("%s; this is said once", text)


def warn_of_error(what: str, error: Exception, outcome: str) -> None:
    """Log, once for each place, that a user's function raised; without the error's text, which a client may have sent.

    Args:
        what: The argument that is the function, such as "on_denied".
        error: What it raised.
        outcome: What becomes of such requests, such as "get 403".
    """
    warn_once(f"{what}: raised {type(error).__name__}{_place(error)}: such requests {outcome}")


def validate_function(value: Any, field: str) -> Any:
    """Return a user's function, or None for none; raise ConfigError for what is neither."""
    if value is not None and not callable(value):
        raise ConfigError(f"must be a function, not {type(value).__name__}", field=field)
    return value


def validate_blocking_function(value: Any, field: str) -> Any:
    """As `validate_function`; raise ConfigError for an asynchronous function as well."""
    refuse_asynchronous(value, field)
    return validate_function(value, field)


def refuse_asynchronous(value: object, field: str) -> None:
    """Raise ConfigError for an asynchronous function: blocking code cannot wait for it."""
    if iscoroutinefunction(value):
        raise ConfigError("cannot be an asynchronous function in blocking code", field=field)


def _place(error: Exception) -> str:
    """Return where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
