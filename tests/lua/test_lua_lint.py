"""The lint of the Lua sources finds nothing in them, and each fault that is put into them."""

import runpy

import pytest
from helpers import lua_lint
from helpers.lua_lint import assembled, lint, sources

from ratelimit import scripts

GOOD = """\
local KEYS, ARGV = KEYS, ARGV
local function double(number, _)
  return 2 * number
end
local total = 0
for _, text in ipairs(ARGV) do
  local number = tonumber(text)
  total = total + double(number)
end
return { KEYS[1], string.format('%.0f', total) }
"""
FAULTS = {
    "syntax": ("return {", "return }", "line:10: unexpected symbol near '}'"),
    "a global read": ("ipairs(ARGV)", "ipairs(arguments)", "reads the global arguments"),
    "a function that Redis does not have": ("tonumber(text)", "require(text)", "reads the global require"),
    "a global read in a function": ("2 * number", "factor * number", "reads the global factor"),
    "a global written": ("local total = 0", "local total = 0\nn = 0", "writes the global n"),
    "an unused local": ("local total = 0", "local total, unused = 0, 1", "line 5: nothing reads the local unused"),
    "a local that is only assigned": (
        "local total = 0",
        "local total, last = 0\nlast = 1",
        "line 5: nothing reads the local last",
    ),
    "an unused parameter": ("number, _", "number, scale", "line 2: nothing reads the local scale"),
    "an unused function": (
        "local total",
        "local function half(x) return x / 2 end\nlocal total",
        "line 5: nothing reads the local half",
    ),
    "a local that a function assigns, and nothing reads": (
        "local total = 0\n",
        "local last\nlocal function note(x) last = x end\nnote(1)\nlocal total = 0\n",
        "line 5: nothing reads the local last",
    ),
    "a shadowed local": (
        "local number = tonumber",
        "local total = tonumber",
        "line 7: the local total shadows another",
    ),
    "a local shadowed in a function": (
        "  return 2 * number",
        "  local KEYS = number\n  return 2 * KEYS",
        "line 3: the local KEYS shadows another",
    ),
    "a function that a library does not have": (
        "string.format(",
        "string.formatted(",
        "string.formatted does not exist",
    ),
    "a long line": ("local total = 0", f"local total = 0 --{'-' * 120}", "line 5 is longer than 120"),
    "a constant that no script reads": ("local total = 0", "local total, LIMIT = 0, 1", "no script reads LIMIT"),
}


def test_the_sources_have_no_fault():
    """All files, and all scripts as they are sent."""
    assert lint(sources(), assembled()) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    """Each kind, and the line where it is."""
    right, wrong, message = FAULTS[fault]
    assert lint({"x": GOOD}, {"x": GOOD}) == []
    assert GOOD.count(right) == 1
    text = GOOD.replace(right, wrong)
    assert message in {problem.removeprefix("x: ") for problem in lint({"x": text}, {"x": text})}


def test_the_command_fails_on_a_fault(tmp_path, monkeypatch, capsys):
    """`make lint` stops: the command prints the problem and exits with 1."""
    (tmp_path / "x.lua").write_text("return unknown\n")
    monkeypatch.setattr(scripts, "folder", lambda: tmp_path)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(lua_lint.__file__, run_name="__main__")
    assert ended.value.code == 1
    assert capsys.readouterr().out == "x with its parts: reads the global unknown\n"
