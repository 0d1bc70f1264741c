"""The mutation test itself: which changes it makes, and what it says of those that nothing finds."""

from collections import Counter

import pytest
from seeded_bugs.mutants import report
from seeded_bugs.mutants.mutator import compiles, mutants
from seeded_bugs.mutants.report import Explanations

from ratelimit.scripts import folder

TEXTS = {
    path.relative_to(folder()).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(folder().rglob("*.lua"))
}


def changed(line):
    """What becomes of a line."""
    return Counter(mutant.source.strip() for mutant in mutants("x", f"{line}\n"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("local x = a < b", ["local x = a <= b", "local x = a >= b"]),
        ("local x = a <= b", ["local x = a < b", "local x = a > b"]),
        ("local x = a > b", ["local x = a >= b", "local x = a <= b"]),
        ("local x = a >= b", ["local x = a > b", "local x = a < b"]),
        ("local x = a == b", ["local x = a ~= b"]),
        ("local x = a ~= b", ["local x = a == b"]),
        ("local x = a + b", ["local x = a - b"]),
        ("local x = a - b", ["local x = a + b"]),
        ("local x = a * b", ["local x = a / b"]),
        ("local x = a / b", ["local x = a * b"]),
        ("local x = a % b", ["local x = a * b"]),
        ("local x = -a", ["local x = a"]),
        ("local x = f(-a)", ["local x = f(a)"]),
        ("local x = a and b", ["local x = a or b"]),
        ("local x = a or b", ["local x = a and b"]),
        ("local x = not a", ["local x =  a"]),
        ("local x = true", ["local x = false"]),
        ("local x = 18", ["local x = 17", "local x = 19"]),
        ("local x = 0", ["local x = (-1)", "local x = 1"]),
        ("local x = math.min(a, b)", ["local x = math.max(a, b)"]),
        ("local x = math.max(a, b)", ["local x = math.min(a, b)"]),
        ("local x = math.floor(a)", ["local x = math.ceil(a)"]),
        ("local min = a.b", []),
        ("local x = 'd:'", ["local x = ''"]),
        ("local x = ''", ["local x = 'x'"]),
        ("local x = y", []),
        ("x = y", [""]),
        ("f(x)", [""]),
        ("return x", ["", "return nil"]),
        ("return nil", [""]),
        ("local x = a -- is a < b + 1, or 'c'", []),
        ("local x = redis.error_reply('RATELIMIT ARGUMENTS')", []),
        ("local x = call('HGET', key)", []),
        ("local x = unpack_doubles('<ddd', y)", []),
        ("if a then f() end", ["", "if not (a) then f() end"]),
        ("if a and b then f() end", ["", "if not (a and b) then f() end", "if a or b then f() end"]),
        ("if a == b then f() end", ["", "if a ~= b then f() end"]),
        ("if not a then f() end", ["", "if  a then f() end"]),
    ],
)
def test_what_becomes_of_a_line(line, expected):
    """Each small change once, and no other."""
    assert changed(line) == Counter(expected)


def test_a_statement_of_several_lines_is_left_out_as_one():
    """And each that is in it; not what declares a local, for then all that uses it fails."""
    text = "for i, x in ipairs(y) do\n  local z = x\n  f(z,\n    i)\nend\ng(h)\n"
    dropped = {mutant.text[mutant.start : mutant.end] for mutant in mutants("x", text) if not mutant.replacement}
    assert dropped == {"for i, x in ipairs(y) do\n  local z = x\n  f(z,\n    i)\nend", "f(z,\n    i)", "g(h)"}


def test_what_does_not_compile_is_no_mutant():
    """`break` and `return` end a block; without its `end` nothing is left."""
    assert not compiles("if x then")
    assert all(compiles(mutant.source) for text in TEXTS.values() for mutant in mutants("x", text))


def test_ids_stay_while_lines_move():
    """They come from the line and the change: a line before it alters none; equal lines differ."""
    text = "f(x)\nlocal a = b + c\nf(x)\n"
    ids = [mutant.id for mutant in mutants("part", text)]
    assert len(set(ids)) == len(ids) == 3
    assert [mutant.id for mutant in mutants("part", f"local y = z\n\n  {text}")] == ids
    assert not set(ids) & {mutant.id for mutant in mutants("other", text)}


def test_every_file_has_mutants_each_with_an_id_of_its_own():
    """Whatever files there are."""
    found = {part: mutants(part, text) for part, text in TEXTS.items()}
    assert [part for part, its_mutants in found.items() if not its_mutants] == []
    ids = [mutant.id for its_mutants in found.values() for mutant in its_mutants]
    assert len(set(ids)) == len(ids) > 3000


def test_what_compiles_to_the_same_is_no_mutant():
    """2^53 + 1 is no double: the compiler reads 2^53."""
    assert changed("local x = 9007199254740992") == Counter(["local x = 9007199254740991"])


def test_a_survivor_that_is_explained_and_is_none_is_a_fault():
    """One that is not there any more, and one that something finds."""
    first, second, third = mutants("x", "f(x)\ng(x)\nh(x)\n")
    killed_by = {first: "vectors", second: None}
    explanations = Explanations({first.id: "why", second.id: "why", third.id: "why"})
    names = {first.id, second.id}
    assert explanations.faults(killed_by, names) == [
        f"{third.id}  there is no such mutant",
        f"{first.id}  is found: vectors",
    ]


def test_the_page_counts_and_explains():
    """Of each file what found how many; each survivor under why."""
    first, second, third = mutants("x", "f(x)\ng(x)\nh(x)\n")
    text = report.page({first: "vectors", second: None, third: "test_a"}, {second.id: "Nothing reads it."}, 7)
    assert "| `x` | 3 | 1 | 0 | 0 | 1 | 1 |\n| all | 3 | 1 | 0 | 0 | 1 | 1 |\n" in text
    assert "3 mutants compile; 2 are found, **66.7 %**" in text
    assert text.endswith("\nNothing reads it.\n\n- `x`, line 2: `g(x)` becomes nothing\n")
