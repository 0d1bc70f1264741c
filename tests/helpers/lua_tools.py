"""Lua read from outside: a file's contract and code, and a server of ten lines."""

import re
from dataclasses import dataclass
from math import inf

from lupa import lua51

from ratelimit.scripts import expanded, folder


@dataclass
class Contract:
    """What the comment at the top of an entry script says."""

    title: str
    indices: dict[str, set[str]]
    """"KEYS" and "ARGV": each documented index, "2..", "..", "1"."""
    replies: dict[int, tuple[int, int]]
    """Per status: how many elements, and how many more for each limit. Empty where a reply starts with no status."""
    errors: set[str]


def hexed(reply):
    """A reply as lua/vectors.json writes it."""
    if isinstance(reply, list):
        return list(map(hexed, reply))
    return reply.hex() if isinstance(reply, bytes) else reply


def entry_names():
    return sorted(path.stem for path in folder().glob("*.lua"))


def source(path):
    return (folder() / f"{path}.lua").read_text(encoding="utf-8")


def code(text):
    """A source without its comments."""
    return re.sub(r"--[^\n]*", "", text)


def contract(name):
    """The contract of an entry script."""
    items = _items(source(name))
    indices = {kind: {index for found, index, _ in items if found == kind} for kind in ("KEYS", "ARGV")}
    replies = {}
    for text in (text for kind, _, text in items if kind == "returns"):
        for group in re.findall(r"\{(.*?)\}", text):
            fixed, _, per_limit = group.partition(", for each limit: ")
            size = fixed.count(",") + 1, per_limit.count(",") + 1 if per_limit else 0
            statuses = re.findall(r"-?\d+", fixed.split(",")[0])
            replies |= {int(status): size for status in statuses}
    errors = " | ".join(text for kind, _, text in items if kind == "errors")
    texts = {re.sub(r" <[^>]+>$", "", error.strip()) for error in errors.split("|")} - {""}
    return Contract(source(name).splitlines()[0], indices, replies, texts)


ITEMS = ("KEYS", "ARGV", "returns", "errors")
"""What a header says of an entry script after its purpose, in this order."""


def _items(text):
    """(kind, index or "", words) of each item in a header; a line that continues one is indented further."""
    head = re.sub(r"\n-- {3,}", " ", text.split("\n\n")[0])
    return re.findall(r"^-- (\w+)(?:\[([\d.]+)\])? {2,}(.*)$", head, re.MULTILINE)


def header_faults(name, text):
    """What is wrong with the header of an entry script.

    A header is its purpose, what it takes and returns, and then in sentences what else a caller has to know. After it
    come the parts that the whole script needs, and then code.
    """
    head, _, body = text.partition("\n\n")
    items = _items(text)
    kinds = [kind for kind, _, _ in items]
    faults = []
    if not re.match(rf"-- {name}: \S.*\.\n--\n", head):
        faults.append("it does not start with its name, its purpose and an empty comment")
    if any(line != "--" and not line.startswith("-- ") for line in head.splitlines()):
        faults.append("code stands in the header")
    if set(kinds) - set(ITEMS) or not set(ITEMS[:3]) <= set(kinds):
        faults.append(f"it says {sorted(set(kinds))}, not KEYS, ARGV, returns and perhaps errors")
    elif kinds != sorted(kinds, key=ITEMS.index):
        faults.append("its items are in another order")
    for kind in ("KEYS", "ARGV"):
        indices = [index for found, index, _ in items if found == kind]
        if not _are_consecutive(indices):
            faults.append(f"the indices of {kind} are {indices}")
    code_lines = [line for line in body.splitlines() if line]
    parts = [at for at, line in enumerate(code_lines) if line.startswith("-- @include ")]
    if parts != list(range(len(parts))):
        faults.append("a part that the whole script needs does not stand at the top")
    return faults


def _are_consecutive(indices):
    """Whether indices are 1, 2, and so on; the last may be "n.." or "..", and a single one none at all."""
    *first, last = indices or [""]
    return first == [str(number) for number in range(1, len(indices))] and (
        last in {str(len(indices)), f"{len(indices)}.."} or (last == ".." and first) or (last == "" and not first)
    )


def passage_names(name):
    """({locals of its caller that a passage reads}, {those that it assigns}), as its header says."""
    words = {"Reads": "", "Leaves": ""}
    for kind, _, text in _items(source(name)):
        words[kind] += ", " + re.split(r" {2,}", text)[0]
    return tuple(set(re.findall(r"\w+", words[kind])) for kind in ("Reads", "Leaves"))


class SortedSet(dict):
    """Scores by member."""


def plain_state(written):
    """A state of the vectors as PlainServer keeps it."""
    state = {}
    for key, value in written.items():
        if isinstance(value, str):
            state[key.encode()] = bytes.fromhex(value)
        elif isinstance(value, dict):
            state[key.encode()] = {field.encode(): bytes.fromhex(part) for field, part in value.items()}
        elif isinstance(value[0], str):
            state[key.encode()] = SortedSet.fromkeys([member.encode() for member in value], inf)
        else:
            state[key.encode()] = [{name.encode(): text.encode() for name, text in entry.items()} for entry in value]
    return state


class PlainServer:
    """Runs a script on a dict, at 2026-03-04 12:00:00.123456. Has no `struct`, so the stand-in packs.

    calls     each command that the script sent, with its arguments
    expiries  by key, what the last SET said of its expiry, or the last PEXPIRE
    lines     numbers of the lines that ran, once `watch_lines` was called
    """

    def __init__(self, state, script="check"):
        self.state = state
        self.calls = []
        self.expiries = {}
        self.lines = set()
        self._lua = lua51.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        library = {b"call": self._call, b"pcall": self._pcall, b"error_reply": self._error}
        self._lua.globals().redis = self._lua.table_from(library)
        self._run = self._lua.eval("function(text) return assert(loadstring(text)) end")(expanded(script).encode())

    def watch_lines(self):
        """Note from now on which lines run."""
        self._lua.eval("function(note) debug.sethook(function(_, line) note(line) end, 'l') end")(self.lines.add)

    def end_after(self, instructions):
        """Fail from now on a script that is as long, which then never ends."""
        self._lua.eval("function(most) debug.sethook(function() error('endless') end, '', most) end")(instructions)

    def eval(self, keys, arguments):
        """The reply: a list, bytes, or an error's text."""
        for name, values in ((b"KEYS", keys), (b"ARGV", arguments)):
            self._lua.globals()[name] = self._lua.table_from(values)
        return self._told(self._run())

    def _told(self, reply):
        if isinstance(reply, bytes):
            return reply
        if not lua51.lua_type(reply):
            return int(reply)
        if reply[b"err"]:
            return reply[b"err"].decode()
        return [self._told(reply[i]) for i in range(1, len(reply) + 1)]

    def _error(self, text):
        return self._lua.table_from({b"err": text})

    def _call(self, command, *arguments):
        self.calls.append((command.decode(), *arguments))
        return getattr(self, f"_{command.decode().lower()}")(*arguments)

    def _pcall(self, *command):
        try:
            return self._call(*command)
        except TypeError:
            return self._error(b"WRONGTYPE")

    def _held(self, key, kind):
        if not isinstance(value := self.state.get(key, kind()), kind):
            raise TypeError
        return value

    def _time(self):
        return self._lua.table_from([b"1772625600", b"123456"])

    def _get(self, key):
        return self._held(key, bytes) or False

    def _set(self, key, value, *expiry):
        self.state[key] = value
        self.expiries[key] = expiry

    def _setrange(self, key, offset, value):
        assert (offset, len(value)) == (b"0", len(self.state[key]))
        self.state[key] = value

    def _hget(self, key, field):
        return self._held(key, dict).get(field, False)

    def _hexists(self, key, field):
        return int(field in self._held(key, dict))

    def _hmget(self, key, *fields):
        return self._lua.table_from([self._held(key, dict).get(field, False) for field in fields])

    def _hset(self, key, *items):
        self.state.setdefault(key, self._held(key, dict)).update(zip(items[::2], items[1::2], strict=True))

    def _hgetall(self, key):
        return self._lua.table_from([part for pair in self._held(key, dict).items() for part in pair])

    def _hdel(self, key, field):
        self._held(key, dict).pop(field, None)

    def _pttl(self, key):
        return self.expiries[key][1] if key in self.expiries else -1

    def _pexpire(self, key, milliseconds):
        assert key in self.state
        self.expiries[key] = b"PX", milliseconds
        return 1

    def _zcount(self, key, least, most):
        return sum(float(least) <= score <= float(most) for score in self._held(key, SortedSet).values())

    def _zadd(self, key, score, member):
        self.state.setdefault(key, self._held(key, SortedSet))[member] = float(score)
        return 1

    def _zremrangebyscore(self, key, least, most):
        held = self._held(key, SortedSet)
        for member in [member for member, score in held.items() if float(least) <= score <= float(most)]:
            del held[member]
        return 0

    def _xadd(self, key, *arguments):
        stream = self.state.setdefault(key, self._held(key, list))
        pairs = arguments[arguments.index(b"*") + 1 :]
        stream.append(dict(zip(pairs[::2], pairs[1::2], strict=True)))
        return b"0-1"
