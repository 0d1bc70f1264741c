"""Checks that are sent together: one call of lua/check_many.lua for several of lua/check.lua."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast
from weakref import WeakValueDictionary

from ratelimit.scripts import Command, Script, ScriptCall, load

RETRY_INDIVIDUALLY = -5
"""In place of a reply: the check was not carried out, and is to be sent by itself."""

_TOKEN_AT, _TOKEN_END = 88, 114
"""Where the version token stands in a request."""
_NO_TOKEN = bytes(_TOKEN_END - _TOKEN_AT)


class CheckTemplate:
    """All of a check but whose key it is about: cost, limits, windows. Checks that are alike share it.

    Attributes:
        layout: How many further buckets a key's hash has, and how many shared ones there are: two bytes.
        keys: The shared buckets.
        args: The request without its version token, and the hash fields.
        packed_keys: `keys`, packed.
        packed_args: `args`, packed.
    """

    __slots__ = ("__weakref__", "args", "keys", "layout", "packed_args", "packed_keys")

    def __init__(self, layout: bytes, keys: tuple[str, ...], args: tuple[str | bytes, ...]) -> None:
        self.layout, self.keys, self.args = layout, keys, args
        self.packed_keys, self.packed_args = b"".join(map(_bulk, keys)), b"".join(map(_bulk, args))

    @classmethod
    def of(cls, layout: bytes, keys: Sequence[str], args: Sequence[str | bytes]) -> CheckTemplate:
        """Return the template of a check, the same object for all checks that are alike."""
        parts = layout, tuple(keys), tuple(args)
        template = _templates.get(parts)
        return _templates.setdefault(parts, cls(*parts)) if template is None else template


_templates: WeakValueDictionary[tuple[bytes, tuple[str, ...], tuple[str | bytes, ...]], CheckTemplate] = (
    WeakValueDictionary()
)
_Parts = tuple[bytes, bytes, CheckTemplate]
"""A key's hash, packed; the version token; the template of a check."""


class CheckCall(ScriptCall):
    """A call of check.lua that may be sent together with others: it has no shadow, no alerts and a cost.

    Attributes:
        layout: As of `CheckTemplate`.
        parts: What `ManyChecks` joins, once it was packed.
    """

    __slots__ = ("layout", "parts")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[str | bytes], layout: bytes) -> None:
        super().__init__(script, keys, args)
        self.layout = layout
        self.parts: _Parts | None = None

    def packed_parts(self) -> _Parts:
        """Return what `ManyChecks` joins, and keep it as `parts`."""
        (key, *others), (request, *fields) = self.keys, cast(tuple[bytes, ...], self.args)
        shared = others[: self.layout[1]]  # without that of counted identities
        before, token, after = request[:_TOKEN_AT], request[_TOKEN_AT:_TOKEN_END], request[_TOKEN_END:]
        self.parts = _bulk(key), token, CheckTemplate.of(self.layout, shared, (before + _NO_TOKEN + after, *fields))
        return self.parts


class ManyChecks:
    """The one call for several checks, in order, of at most 255 templates.

    Its reply is the list of theirs, or RETRY_INDIVIDUALLY in a place. A check that is left out was not carried out, nor
    was any later one in the list that meets one of the same limits.

    Attributes:
        packet: The call as it goes over the wire, joined from the packed parts of its checks.
    """

    __slots__ = ("_calls", "_lists", "_templates", "packet")

    def __init__(self, calls: Sequence[CheckCall]) -> None:
        parts = [call.parts or call.packed_parts() for call in calls]
        hashes, tokens, its_templates = zip(*parts, strict=True)
        templates = tuple(dict.fromkeys(its_templates))
        numbers = b""
        if len(templates) > 1 or len(set(hashes)) < len(hashes):
            number, times = {template: at for at, template in enumerate(templates, 1)}, Counter(hashes)
            numbers = b"".join([bytes((number[template], times[key] > 1)) for key, _, template in parts])
        self._calls, self._templates = calls, templates
        layouts = b"".join([template.layout for template in templates])
        self._lists = layouts, b"".join(tokens), numbers
        key_count = len(calls) + sum([len(template.keys) for template in templates])
        words = 3 + key_count + len(self._lists) + sum([len(template.args) for template in templates])
        self.packet = b"".join(
            (
                b"*%d\r\n" % words,
                *map(_bulk, (b"EVALSHA", load("check_many").sha.encode(), b"%d" % key_count)),
                *[template.packed_keys for template in templates],
                *hashes,
                *map(_bulk, self._lists),
                *[template.packed_args for template in templates],
            )
        )

    def by_source(self) -> Command:
        """Return the command that runs the script, and makes the server know it."""
        keys = [
            *(key for template in self._templates for key in template.keys),
            *(call.keys[0] for call in self._calls),
        ]
        args = [*self._lists, *(arg for template in self._templates for arg in template.args)]
        return ScriptCall(load("check_many"), keys, args).by_source()


def _bulk(value: str | bytes) -> bytes:
    """Return an argument as RESP has it: a bulk string."""
    raw = value.encode() if isinstance(value, str) else value
    return b"$%d\r\n%b\r\n" % (len(raw), raw)
