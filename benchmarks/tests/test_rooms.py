"""The rooms of the benchmarks: what each may import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {"contenders": set(), "report": {"contenders"}, "suite": {"contenders", "report"}}


def imported_rooms(path):
    """Rooms that a file imports from, by absolute imports: there are no others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("benchmarks."))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(room):
    """Itself and what its `__init__` says."""
    files = sorted((ROOT / room).rglob("*.py"))
    assert len(files) > 1
    imports = {(path.name, other) for path in files for other in imported_rooms(path)}
    assert {(name, other) for name, other in imports if other not in MAY_IMPORT[room] | {room}} == set()


@pytest.mark.parametrize("room", [*MAY_IMPORT, "tests"])
def test_a_room_says_what_it_is_and_stays_small(room):
    """One line in its `__init__`; at most 20 files."""
    assert len((ROOT / room / "__init__.py").read_text(encoding="utf-8").splitlines()) == 1
    assert len(list((ROOT / room).glob("*.py"))) <= 20
