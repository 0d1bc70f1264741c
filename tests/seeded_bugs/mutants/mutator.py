"""Mutants of the Lua sources: each is one small change of one token or one statement, such as people make by mistake.

A file is mutated where it is written, so a passage that several scripts contain is mutated once. No library does this
for Lua: tools of regular expressions take comments for code.
"""

import hashlib
import re
from dataclasses import dataclass

from lupa import lua51

TOKEN = re.compile(
    r"(?P<comment>--[^\n]*)|(?P<string>'(?:\\.|[^'\\])*')|(?P<number>\d+)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<symbol>\.\.\.|\.\.|[<>=~]=|\S)|(?P<space>\s+)"
)
SWAPS = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("~=",),
    "~=": ("==",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "%": ("*",),
    "^": ("*",),
    "and": ("or",),
    "or": ("and",),
    "not": ("",),
    "true": ("false",),
    "false": ("true",),
    "min": ("max",),
    "max": ("min",),
    "floor": ("ceil",),
}
"""What becomes of an operator, a constant, a function of `math`."""
NO_OPERAND = {"", "(", "{", "[", ",", "=", "<", "<=", ">", ">=", "==", "~=", "+", "-", "*", "/", "%", "^", "..", ";"}
NO_OPERAND |= {"and", "or", "not", "return", "then", "do", "else", "elseif", "if", "while", "until", "in"}
"""After these a minus is a sign."""
INDIFFERENT = re.compile(r"'(<?d+|[A-Z ]{3,}|RATELIMIT.*)'")
"""Texts that are left alone: formats of numbers and commands, which fail at once, and errors, which nobody reads."""
NO_STATEMENT = {"local", "function", "end", "else", "elseif", "until", "and", "or", "not"}
"""What a line begins with that is no statement to drop. Without its `local`, a name is an unknown global."""


@dataclass(frozen=True)
class Mutant:
    """One change: of `text`, the characters from `start` to `end` become `replacement`.

    Attributes:
        part: The path of the file in lua/, without its suffix.
        id: The same as long as the line stays as it is, wherever it stands.
        line: Its number, from 1.
    """

    part: str
    id: str
    line: int
    text: str
    start: int
    end: int
    replacement: str

    @property
    def source(self):
        """The whole file with the change."""
        return self.text[: self.start] + self.replacement + self.text[self.end :]

    @property
    def change(self):
        """What it does, for readers."""
        was = " ".join(self.text[self.start : self.end].split())
        row_start, row_end = self.text.rfind("\n", 0, self.start) + 1, self.text.find("\n", self.start)
        row = self.text[row_start:row_end].strip()
        where = "" if was.startswith(row) else f" in `{row}`"
        return f"`{shortened(was)}` becomes {f'`{self.replacement}`' if self.replacement else 'nothing'}{where}"


def shortened(text):
    return text if len(text) <= 100 else f"{text[:80]} ... {text[-15:]}"


def mutants(part, text):
    """Return all mutants of a file that compile to something else, in the order of the file."""
    changes = sorted({*token_changes(text), *condition_changes(text), *statement_changes(text)})
    seen, made = {}, []
    for start, end, replacement in changes:
        row_start = text.rfind("\n", 0, start) + 1
        row = text[row_start : (text.find("\n", start) + 1 or len(text) + 1) - 1]
        kind = (
            f"{part}\n{row.strip()}\n{start - row_start - len(row) + len(row.lstrip())}\n{end - start}\n{replacement}"
        )
        seen[kind] = seen.get(kind, 0) + 1
        digest = hashlib.sha1(f"{kind}\n{seen[kind]}".encode(), usedforsecurity=False).hexdigest()[:8]
        made.append(Mutant(part, f"{part} {digest}", text.count("\n", 0, start) + 1, text, start, end, replacement))
    bytecode = compiled(text)
    return [mutant for mutant in made if compiled(mutant.source) not in {None, bytecode}]


_compile = lua51.LuaRuntime(encoding=None).eval(
    "function(text) local made = loadstring(text, '=') return made and string.dump(made) end"
)


def compiled(text):
    """The bytecode of a chunk of Lua; None if it is none."""
    return _compile(text.encode())


def compiles(text):
    """Whether a text is a chunk of Lua."""
    return compiled(text) is not None


def tokens(text):
    """(kind, start, end, text) of all that is code."""
    found = [(match.lastgroup, *match.span(), match[0]) for match in TOKEN.finditer(text)]
    return [token for token in found if token[0] not in {"comment", "space"}]


def token_changes(text):
    """Yield changes of one token: operators, constants, numbers by one, texts."""
    before = ""
    for kind, start, end, token in tokens(text):
        if kind == "number":
            number = int(token)
            yield start, end, str(number + 1)
            yield start, end, str(number - 1) if number else "(-1)"
        elif kind == "string":
            if not INDIFFERENT.fullmatch(token):
                yield start, end, "'x'" if token == "''" else "''"
        elif token == "-" and before in NO_OPERAND:
            yield start, end, ""
        elif token not in {"min", "max", "floor"} or before == ".":
            for other in SWAPS.get(token, ()):
                yield start, end, other
        before = token


def condition_changes(text):
    """Yield changes of an `if` or `elseif`: its condition is negated, so that its branches are swapped.

    A single comparison, or one thing that is not, is negated by its own change already.
    """
    opened, inside = None, set()
    for _, start, end, token in tokens(text):
        if token in {"if", "elseif"}:
            opened, inside = end + 1, set()
        elif token == "then" and opened is not None:
            if inside & {"and", "or"} or not inside & {"not", "==", "~=", "<", "<=", ">", ">="}:
                yield opened, start - 1, f"not ({text[opened : start - 1]})"
            opened = None
        else:
            inside.add(token)


def statement_changes(text):
    """Yield changes of statements that begin a line, or stand alone in a branch: dropped, or returning nil."""
    for match in re.finditer(r"\breturn (?!nil\b)([^\n]+?)(?= end\b|\n|$)", text):
        if not in_comment(text, match.start()):
            yield match.start(1), match.end(1), "nil"
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for first, line in enumerate(lines):
        word = re.match(r"\s*(\w+)", line)
        if word and word[1] not in NO_STATEMENT:
            for last in range(first + 1, len(lines) + 1):
                statement = text[starts[first] : starts[last]]
                if compiles(statement):
                    yield starts[first] + len(line) - len(line.lstrip()), starts[first] + len(statement.rstrip()), ""
                    break


def in_comment(text, at):
    return "--" in text[text.rfind("\n", 0, at) + 1 : at]
