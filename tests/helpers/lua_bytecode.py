"""Lua 5.1 as the compiler sees it: functions with their instructions, locals and globals, read from string.dump."""

import struct
from dataclasses import dataclass, field

from lupa import LuaSyntaxError, lua51

GETUPVAL, GETGLOBAL, SETGLOBAL, RETURN, CLOSURE = 4, 5, 7, 30, 36
READS = {
    **dict.fromkeys((0, 18, 19, 20, 27), "b"),  # MOVE UNM NOT LEN TESTSET
    **dict.fromkeys((SETGLOBAL, 8, 26), "a"),  # SETUPVAL TEST
    **dict.fromkeys((6, 11), "bK"),  # GETTABLE SELF
    9: "aJK",  # SETTABLE
    **dict.fromkeys((*range(12, 18), *range(23, 26)), "JK"),  # arithmetic, comparisons
}
"""Which operands of an opcode are registers that it reads; J and K are B and C where they are no constants.

What CALL, CONCAT and their like read are temporaries, into which locals were moved before.
"""


@dataclass(frozen=True)
class Local:
    name: str
    start: int
    """The first instruction at which it is there."""
    end: int
    line: int


@dataclass
class Function:
    """A compiled function. `upvalues` names the locals of enclosing functions that it uses."""

    instructions: list[int] = field(default_factory=list)
    constants: list[object] = field(default_factory=list)
    functions: list["Function"] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Of each instruction its line."""
    locals: list[Local] = field(default_factory=list)
    upvalues: list[str] = field(default_factory=list)

    def everywhere(self):
        """Yield the function and all that are defined in it."""
        yield self
        for inner in self.functions:
            yield from inner.everywhere()

    def active(self, at):
        """Return the locals that are there at an instruction, in the order of their registers."""
        return [local for local in self.locals if local.start <= at < local.end]

    def closures(self):
        """Yield (instruction, function, captured) of each function made here; `captured` gives a register or None."""
        for at, instruction in enumerate(self.instructions):
            if instruction & 63 == CLOSURE:
                inner = self.functions[instruction >> 14]
                following = self.instructions[at + 1 : at + 1 + len(inner.upvalues)]
                yield at, inner, [None if each & 63 == GETUPVAL else each >> 23 for each in following]

    def reads_upvalue(self, number):
        """Return whether the function, or one that it makes, reads the value of an upvalue."""
        captures = set()
        for at, inner, captured in self.closures():
            for index, register in enumerate(captured):
                instruction = self.instructions[at + 1 + index]
                captures.add(at + 1 + index)
                if register is None and instruction >> 23 == number and inner.reads_upvalue(index):
                    return True
        return any(
            instruction & 63 == GETUPVAL and instruction >> 23 == number and at not in captures
            for at, instruction in enumerate(self.instructions)
        )

    def read_locals(self):
        """Return the locals whose value something reads, here or in a function that captured them."""
        reads, captures = [], set()
        for at, inner, captured in self.closures():
            captures |= set(range(at + 1, at + 1 + len(captured)))
            reads += [
                (at, register) for i, register in enumerate(captured) if register is not None and inner.reads_upvalue(i)
            ]
        for at, instruction in enumerate(self.instructions):
            if at not in captures:
                reads += [(at, register) for register in _registers_read(instruction)]
        found = set()
        for at, register in reads:
            active = self.active(at)
            if register < len(active):
                found.add(active[register])
        return found


def _registers_read(instruction):
    opcode, a, c, b = instruction & 63, instruction >> 6 & 255, instruction >> 14 & 511, instruction >> 23
    if opcode == RETURN:
        return range(a, a + max(b - 1, 0))
    operands = {"a": a, "b": b, "J": b, "K": c}
    return [operands[name] for name in READS.get(opcode, "") if name in "ab" or operands[name] < 256]


def compiled(text):
    """Compile a source; raise LuaSyntaxError with the compiler's message if it is none."""
    dump = lua51.LuaRuntime(encoding=None).eval(
        "function(text) local made, message = loadstring(text, '=line') "
        "if made then return string.dump(made) end return nil, message end"
    )
    result = dump(text.encode())
    if isinstance(result, tuple):
        raise LuaSyntaxError(result[1].decode())
    return _Reader(result).function()


class _Reader:
    """Reads what string.dump writes on a 64-bit machine."""

    def __init__(self, dumped):
        self._dumped, self._at = dumped, 12

    def _take(self, form):
        (value,) = struct.unpack_from(f"<{form}", self._dumped, self._at)
        self._at += struct.calcsize(f"<{form}")
        return value

    def _list(self, read):
        return [read() for _ in range(self._take("i"))]

    def _string(self):
        length = self._take("Q")
        self._at += length
        return self._dumped[self._at - length : self._at - 1].decode("latin-1") if length else ""

    def _constant(self):
        kind = self._take("B")
        return {0: lambda: None, 1: lambda: self._take("B"), 3: lambda: self._take("d"), 4: self._string}[kind]()

    def function(self):
        self._string()
        first_line = self._take("i")
        self._at += 4 + 4  # the last line; numbers of upvalues, parameters and registers
        function = Function(self._list(lambda: self._take("I")), self._list(self._constant), self._list(self.function))
        function.lines = self._list(lambda: self._take("i"))
        for name, start, end in self._list(lambda: (self._string(), self._take("i"), self._take("i"))):
            # A local is there from the instruction after the one that gives it a value; a parameter from the first.
            function.locals.append(Local(name, start, end, function.lines[start - 1] if start else first_line))
        function.upvalues = self._list(self._string)
        return function


def global_accesses(text):
    """(names read, names written) of the globals that a source touches, by the compiler's own word."""
    accesses = {GETGLOBAL: set(), SETGLOBAL: set()}
    for function in compiled(text).everywhere():
        for instruction in function.instructions:
            if (opcode := instruction & 63) in accesses:
                accesses[opcode].add(function.constants[instruction >> 14])
    return accesses[GETGLOBAL], accesses[SETGLOBAL]


def executable_lines(text):
    """The numbers of the lines for which the compiler made instructions; an `end` is none."""
    lines = text.splitlines()
    numbers = {number for function in compiled(text).everywhere() for number in function.lines}
    return {number for number in numbers if lines[number - 1].strip() != "end"}
