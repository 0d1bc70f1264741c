"""Lints the Lua sources: part of `make lint`. Prints what is wrong, and exits with 1 if anything is.

Syntax, globals, locals that nothing reads, shadowed locals, and functions that the standard libraries do not have: by
the compiler's own listing, because a server would notice only when such a line runs.
"""

import re
import sys

from lupa import LuaSyntaxError, lua51

from helpers.lua_bytecode import compiled, global_accesses
from ratelimit.scripts import expanded, folder

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
    """Every file of lua/, by its path there."""
    root = folder()
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.lua"))}


def assembled():
    """Every script as it is sent, by its name."""
    return {f"{path.stem} with its parts": expanded(path.stem) for path in sorted(folder().glob("*.lua"))}


def lint(files, scripts):
    """Return what is wrong with files and assembled scripts, which are given by name."""
    problems = [
        f"{name}: line {number} is longer than {WIDTH}"
        for name, text in files.items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > WIDTH
    ]
    compiled_files, compiled_scripts = (_compile_all(texts, problems) for texts in (files, scripts))
    # A function of lib/ may use the names of the code into which it is put: so each file is checked by itself.
    for name, main in compiled_files.items():
        problems += [f"{name}: {problem}" for problem in _shadowing(main, [])]
    # A file of lib/ may have functions that this script does not need, but some script has to.
    shared = {local.name for name, main in compiled_files.items() if name.startswith("lib/") for local in main.locals}
    shared |= {local.name for main in compiled_files.values() for local in main.locals if local.name.isupper()}
    used = set()
    for name, main in compiled_scripts.items():
        read, written = global_accesses(scripts[name])
        problems += [f"{name}: reads the global {each}" for each in sorted(read - GLOBALS)]
        problems += [f"{name}: writes the global {each}" for each in sorted(written)]
        problems += [f"{name}: {each} does not exist" for each in _missing_functions(scripts[name])]
        for function in main.everywhere():
            problems += [f"{name}: {problem}" for problem in _shadowing_here(function, [])]
            read_locals = function.read_locals()
            used |= {local.name for local in read_locals}
            problems += [
                f"{name}: line {local.line}: nothing reads the local {local.name}"
                for local in function.locals
                if local not in read_locals and local.name not in shared and not _is_exempt(local.name)
            ]
    return problems + [f"no script reads {name}" for name in sorted(shared - used)]


def _compile_all(texts, problems):
    functions = {}
    for name, text in texts.items():
        try:
            functions[name] = compiled(text)
        except LuaSyntaxError as error:
            problems.append(f"{name}: {error}")
    return functions


def _is_exempt(name):
    """The blank; what the compiler itself adds to loops and to functions with `...`."""
    return name in {"_", "arg"} or name.startswith("(")


def _missing_functions(text):
    """What a script uses of a standard library that does not have it."""
    code = re.sub(r"--[^\n]*", "", text)
    used = set(re.findall(rf"(?<![\w.])({'|'.join(LIBRARIES)})\.(\w+)", code))
    return sorted(f"{library}.{name}" for library, name in used if name not in LIBRARIES[library])


def _shadowing(function, outer):
    """Yield the locals that have the name of another one, of this function or of those around it."""
    yield from _shadowing_here(function, outer)
    for at, inner, _ in function.closures():
        yield from _shadowing(inner, outer + [local.name for local in function.active(at)])


def _shadowing_here(function, outer):
    for number, local in enumerate(function.locals):
        there = outer + [each.name for each in function.locals[:number] if each.start <= local.start < each.end]
        if local.name in there and not _is_exempt(local.name):
            yield f"line {local.line}: the local {local.name} shadows another"


if __name__ == "__main__":
    result = lint(sources(), assembled())
    print("\n".join(result) or "lua: no problems")  # noqa: T201 - a command
    sys.exit(bool(result))
