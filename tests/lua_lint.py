"""Lints the Lua sources: `python tests/lua_lint.py`. Prints what is wrong, and exits with 1 if anything is.

Syntax, globals, locals that nothing reads, shadowed locals, and functions that the standard libraries do not have: by
the compiler's own listing, because a server would notice only when such a line runs.
"""

import re
import sys

from lua_bytecode import Function, compiled, global_accesses
from lupa import LuaSyntaxError, lua51

from ratelimit.core.scripts import expanded, folder

GLOBALS = {"KEYS", "ARGV", "redis", "cjson", "string", "table", "math", "struct", "select", "unpack", "ipairs"}
GLOBALS |= {"pairs", "type", "tonumber"}
"""What the scripts may read. Redis has more, of which some is not deterministic or not on every version."""
LIBRARIES = {
    "redis": {"call", "pcall", "error_reply", "acl_check_cmd"},
    "cjson": {"decode", "null"},
    **{name: set(lua51.LuaRuntime().globals()[name]) for name in ("string", "table", "math")},
}
WIDTH = 120


def sources():
    """Every file of lua/ by its path there, without the suffix."""
    root = folder()
    paths = sorted(path.relative_to(root).with_suffix("") for path in root.rglob("*.lua"))
    return {path.as_posix(): (root / f"{path}.lua").read_text(encoding="utf-8") for path in paths}


def lint(files, scripts):
    """Return what is wrong with sources and assembled scripts, each by its name."""
    found = []
    for name, text in files.items():
        found += [f"{name}: line {number} is longer than {WIDTH}" for number in _long_lines(text)]
    broken = set()
    for name, text in (files | scripts).items():
        try:
            compiled(text)
        except LuaSyntaxError as error:
            broken.add(name)
            found.append(f"{name}: syntax: {error}")
    whole = {name: text for name, text in files.items() if name not in broken}
    # Functions of lib/ do not know the code around them, and may use its names: so each file is looked at by itself.
    for name, text in whole.items():
        found += [f"{name}: {each}" for each in _shadowing(compiled(text), [])]
    offered = {local.name for name, text in whole.items() if name.startswith("lib/") for local in compiled(text).locals}
    assembled = {name: text for name, text in scripts.items() if name not in broken}
    used = set()
    for name, text in assembled.items():
        main, (read, written) = compiled(text), global_accesses(text)
        found += [f"{name}: reads the global {each}" for each in sorted(read - GLOBALS)]
        found += [f"{name}: writes the global {each}" for each in sorted(written)]
        found += [f"{name}: {each} does not exist" for each in _unknown_functions(text)]
        found += [f"{name}: {each}" for each in _shadowing_in(main)]
        for function in main.everywhere():
            reads = function.read_locals()
            used |= {local.name for local in reads}
            for local in function.locals:
                is_shared = local.name in offered or local.name.isupper()
                if local not in reads and not _is_exempt(local.name) and not is_shared:
                    found.append(f"{name}: line {local.line}: nothing reads the local {local.name}")
    shared = offered | {
        local.name for text in whole.values() for local in compiled(text).locals if local.name.isupper()
    }
    return found + [f"no script reads {name}" for name in sorted(shared - used)]


def _is_exempt(name):
    """The blank; what the compiler itself adds to loops and to functions with `...`."""
    return name in {"_", "arg"} or name.startswith("(")


def _long_lines(text):
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > WIDTH]


def _unknown_functions(text):
    code = re.sub(r"--[^\n]*", "", text)
    used = set(re.findall(rf"(?<![\w.])({'|'.join(LIBRARIES)})\.(\w+)", code))
    return sorted(f"{library}.{name}" for library, name in used if name not in LIBRARIES[library])


def _shadowing(function: Function, outer):
    """Yield the locals with the name of one that is there already, also of a function around."""
    yield from _shadowing_here(function, outer)
    for at, inner, _ in function.closures():
        yield from _shadowing(inner, outer + [local.name for local in function.active(at)])


def _shadowing_in(main):
    """The same, in each function by itself."""
    for function in main.everywhere():
        yield from _shadowing_here(function, [])


def _shadowing_here(function, outer):
    for number, local in enumerate(function.locals):
        there = outer + [each.name for each in function.locals[:number] if each.start <= local.start < each.end]
        if local.name in there and not _is_exempt(local.name):
            yield f"line {local.line}: the local {local.name} shadows another"


if __name__ == "__main__":
    problems = lint(sources(), {path.stem: expanded(path.stem) for path in sorted(folder().glob("*.lua"))})
    print("\n".join(problems) or "lua: no problems")  # noqa: T201 - a command
    sys.exit(bool(problems))
