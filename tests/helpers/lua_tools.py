"""Lua read from outside: a file's contract and code, the globals in its bytecode, and a server of ten lines."""

import re
import struct
from dataclasses import dataclass

from lupa import lua51

from ratelimit.scripts import expanded, folder

GETGLOBAL, SETGLOBAL = 5, 7


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
    """The contract of an entry script; a line that belongs to the one before is indented further."""
    lines = source(name).split("\n\n")[0].splitlines()
    head = re.sub(r"\n-- {3,}", " ", "\n".join(lines))
    items = re.findall(r"^-- (KEYS|ARGV|returns|errors)(?:\[([\d.]+)\])? +(.*)$", head, re.MULTILINE)
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
    return Contract(lines[0], indices, replies, texts)


def global_accesses(text):
    """(names read, names written) of the globals that a source touches, by the compiler's own word."""
    reader = _compiled(text)
    return reader.read, reader.written


def executable_lines(text):
    """The numbers of the lines for which the compiler made instructions; an `end` is none."""
    lines = text.splitlines()
    return {number for number in _compiled(text).lines if lines[number - 1].strip() != "end"}


def _compiled(text):
    dump = lua51.LuaRuntime(encoding=None).eval("function(text) return string.dump(assert(loadstring(text))) end")
    reader = _Bytecode(dump(text.encode()))
    reader.function()
    return reader


class _Bytecode:
    """Reads what string.dump of Lua 5.1 writes on a 64-bit machine."""

    def __init__(self, dumped):
        self._dumped, self._at = dumped, 12
        self.read, self.written, self.lines = set(), set(), set()

    def _take(self, form):
        values = struct.unpack_from(f"<{form}", self._dumped, self._at)
        self._at += struct.calcsize(f"<{form}")
        return values if len(values) > 1 else values[0] if values else ()

    def _string(self):
        length = self._take("Q")
        self._at += length
        return self._dumped[self._at - length : self._at - 1].decode("latin-1") if length else ""

    def _constant(self):
        kind = self._take("B")
        return {0: lambda: None, 1: lambda: self._take("B"), 3: lambda: self._take("d"), 4: self._string}[kind]()

    def function(self):
        self._string()
        self._take("2i4B")
        instructions = [self._take("I") for _ in range(self._take("i"))]
        constants = [self._constant() for _ in range(self._take("i"))]
        for instruction in instructions:
            name = constants[instruction >> 14] if instruction & 63 in {GETGLOBAL, SETGLOBAL} else None
            if name is not None:
                (self.read if instruction & 63 == GETGLOBAL else self.written).add(name)
        for _ in range(self._take("i")):
            self.function()
        self.lines |= {self._take("i") for _ in range(self._take("i"))}
        for _ in range(self._take("i")):
            self._string()
            self._take("2i")
        for _ in range(self._take("i")):
            self._string()


class PlainServer:
    """Runs a script on a dict, at 2026-03-04 12:00:00.123456. Has no `struct`, so the stand-in packs.

    calls     each command that the script sent, with its arguments
    expiries  by key, what the last SET said of its expiry
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

    def _hmget(self, key, *fields):
        return self._lua.table_from([self._held(key, dict).get(field, False) for field in fields])

    def _hset(self, key, *items):
        self.state.setdefault(key, self._held(key, dict)).update(zip(items[::2], items[1::2], strict=True))

    def _xadd(self, key, *arguments):
        stream = self.state.setdefault(key, self._held(key, list))
        pairs = arguments[arguments.index(b"*") + 1 :]
        stream.append(dict(zip(pairs[::2], pairs[1::2], strict=True)))
        return b"0-1"
