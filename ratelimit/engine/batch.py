"""Checks that are asked together: one call of lua/check_many.lua for several of lua/check.lua."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast
from weakref import WeakValueDictionary

from ratelimit.scripts import Command, Script, ScriptCall, load

RETRY_INDIVIDUALLY = -5
_NOBODY = bytes(26)
"""In place of an identity."""


class CheckTemplate:
    """All that is asked by a check but for whose key it is: cost, limits, windows. Checks that are alike share it.

    layout  how many further buckets a key's hash has, and how many shared ones are met: two bytes
    keys    the shared buckets
    args    the request, without an identity, and the hash fields
    """

    __slots__ = ("__weakref__", "args", "keys", "layout", "packed_args", "packed_keys")

    def __init__(self, layout: bytes, keys: tuple[str, ...], args: tuple[str | bytes, ...]) -> None:
        self.layout, self.keys, self.args = layout, keys, args
        self.packed_keys, self.packed_args = b"".join(map(_bulk, keys)), b"".join(map(_bulk, args))

    @classmethod
    def of(cls, layout: bytes, keys: Sequence[str], args: Sequence[str | bytes]) -> CheckTemplate:
        """Return those of a check, the same for all checks that are alike."""
        known = layout, tuple(keys), tuple(args)
        found = _all_terms.get(known)
        return _all_terms.setdefault(known, cls(*known)) if found is None else found


_all_terms: WeakValueDictionary[tuple[bytes, tuple[str, ...], tuple[str | bytes, ...]], CheckTemplate] = (
    WeakValueDictionary()
)
_Parts = tuple[bytes, bytes, CheckTemplate]
"""A key's hash as it goes over the wire, the identity, and the terms of a check."""


class CheckCall(ScriptCall):
    """A call of check.lua that may be asked together with others: it has no shadow, no alerts and a cost.

    layout  as of `Terms`
    """

    __slots__ = ("layout", "parts")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], layout: bytes) -> None:
        super().__init__(script, keys, args)
        self.layout = layout
        self.parts: _Parts | None = None

    def packed_parts(self) -> _Parts:
        """Return what `ManyChecks` puts together, and keep it as `parts`."""
        (key, *shared), (request, *fields) = self.keys, cast(tuple[bytes, ...], self.args)
        before, identity, after = request[:88], request[88:114], request[114:]
        self.parts = _bulk(key), identity, CheckTemplate.of(self.layout, shared, (before + _NOBODY + after, *fields))
        return self.parts


class ManyChecks:
    """The one call that asks several checks, in order, of at most 255 terms.

    Its reply is the list of theirs, or ASK_ALONE in a place. Who is left out was not carried out, and nobody who meets
    one of the same limits later in the list was either.

    packet  the call as it goes over the wire, put together from what its checks keep of themselves
    """

    __slots__ = ("_calls", "_lists", "_terms", "packet")

    def __init__(self, calls: Sequence[CheckCall]) -> None:
        parts = [call.parts or call.packed_parts() for call in calls]
        hashes, identities, asked = zip(*parts, strict=True)
        terms = tuple(dict.fromkeys(asked))
        numbers = b""
        if len(terms) > 1 or len(set(hashes)) < len(hashes):
            number, met = {each: at for at, each in enumerate(terms, 1)}, Counter(hashes)
            numbers = b"".join([bytes((number[each], met[key] > 1)) for key, _, each in parts])
        self._calls, self._terms = calls, terms
        self._lists = b"".join([each.layout for each in terms]), b"".join(identities), numbers
        many_keys = len(calls) + sum([len(each.keys) for each in terms])
        many = 3 + many_keys + len(self._lists) + sum([len(each.args) for each in terms])
        self.packet = b"".join(
            (
                b"*%d\r\n" % many,
                *map(_bulk, (b"EVALSHA", load("check_many").sha.encode(), b"%d" % many_keys)),
                *[each.packed_keys for each in terms],
                *hashes,
                *map(_bulk, self._lists),
                *[each.packed_args for each in terms],
            )
        )

    def by_source(self) -> Command:
        """Return the command that runs the script and teaches it to the server."""
        keys = [*(key for each in self._terms for key in each.keys), *(call.keys[0] for call in self._calls)]
        args = [*self._lists, *(arg for each in self._terms for arg in each.args)]
        return ScriptCall(load("check_many"), keys, args).by_source()


def _bulk(value: str | bytes) -> bytes:
    """Return an argument as RESP has it: a bulk string."""
    raw = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
