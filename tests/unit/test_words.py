"""The words of the sources: files that they cite exist, and names are standard terms."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
FOLDERS = ("ratelimit", "lua", "benchmarks", "tests", "scripts", "examples", "docs", ".github")
FILES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [*ROOT.glob("*.*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.is_file() and "__pycache__" not in path.parts
}
CITING = sorted(name for name in FILES if name.endswith((".py", ".lua", ".md")))
PACKAGE = sorted(name for name in FILES if name.startswith("ratelimit/") and name.endswith(".py"))

EXAMPLES = {"lua/NAME.lua", "docs/decisions/NNNN-a-few-words.md", "settings.py", "urls.py", "limits.py"}
"""Names that stand for a file that a reader is going to add, or has in a project of Django."""

CITATION = re.compile(r"(?<![\w/.<>*{}~:-])(?:\.\./)*([\w-][\w./-]*\.(?:py|lua|md))(?![\w/(]|\.\w|`? -> )")
"""A name with or without folders: not in a URL, no pattern such as `<name>.lua`, no former name (`a.py` -> b)."""


FILE_IN_DOCUMENT = re.compile(r"^```(?:python|toml)\n# ([\w.]+)$", re.MULTILINE)
"""A block whose first line is its name."""


def comments(name, text):
    """The comments and docstrings of a source; all of a document."""
    if name.endswith(".md"):
        return text
    if name.endswith(".lua"):
        return "\n".join(re.findall(r"--.*", text))
    notes = [
        token.string for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
    ]
    strings = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr))
    notes += [node.value for node in strings if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return "\n".join(notes)


def missing_citations(text):
    """The files that a text cites and that are neither in the repository nor in the document itself."""
    cited = set(CITATION.findall(text)) - EXAMPLES - set(FILE_IN_DOCUMENT.findall(text))
    return {name for name in cited if name not in FILES and not any(file.endswith(f"/{name}") for file in FILES)}


@pytest.mark.parametrize("name", CITING)
def test_cited_files_exist(name):
    """No comment, docstring or document cites a file that has been moved, renamed or removed."""
    text = FILES[name].read_text(encoding="utf-8")
    if missing_citations(text):  # seldom, and it takes long to tell comments from code
        assert missing_citations(comments(name, text)) == set()


def test_every_kind_of_citation_is_seen():
    """In comments, docstrings, attributes' docs and documents, with and without folders, so the test above can fail."""
    python = '"""See gone.py."""\nLIMIT = 1\n"""As in core/gone.lua."""\nf("code.py")  # docs/decisions/0000-gone.md'
    assert missing_citations(comments("a.py", python)) == {"gone.py", "core/gone.lua", "docs/decisions/0000-gone.md"}
    assert missing_citations(comments("a.lua", "local file = 'code.lua' -- as in gone.lua")) == {"gone.lua"}
    document = (
        "[`ACL`](../lua/ACL.md), `lua/GONE.md`; https://example.com/gone.md, `<name>.lua`, `lua/NAME.lua`, check.lua; "
        "`former.lua` -> `check.lua`, `check.lua` -> `new/gone.lua`"
    )
    assert missing_citations(comments("a.md", document)) == {"lua/GONE.md", "new/gone.lua"}
    assert missing_citations("```python\n# mine.py\n```\nmine.py, gone.py\n```text\n# other.py\n```") == {
        "gone.py",
        "other.py",
    }


PRIVATE = {
    "Question", "PlanBook", "book", "edition", "at_hand", "go_on", "heard", "needs_look", "placed", "Admitted", "Flow",
    "Stored", "Outline", "Anew", "starts_anew", "Gatherer", "Line", "Lines", "Direct", "ThroughRedisPy", "look_at",
    "give_back", "refusal",
}  # fmt: skip
"""Names of a former vocabulary, each replaced by a standard term."""

MEANINGLESS = {"told", "found", "asked", "known", "kept"}
"""Variables that do not name their value."""


def names_in(text):
    """(name, is a variable) of what a source defines: classes, functions, arguments, variables, attributes."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, False
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                yield name, True
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, True
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, True
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((alias.asname, True) for alias in aliases if alias.asname)


def private_names(text):
    """The names in a source that are not standard terms; a leading underscore does not make them better."""
    return {
        name
        for name, is_variable in names_in(text)
        if name.lstrip("_") in PRIVATE or (is_variable and name.lstrip("_") in MEANINGLESS)
    }


@pytest.mark.parametrize("name", PACKAGE)
def test_names_are_standard_terms(name):
    """No class, function, argument, variable or attribute of the package has a name of the former vocabulary."""
    assert private_names(FILES[name].read_text(encoding="utf-8")) == set()


def test_every_kind_of_name_is_seen():
    """Classes, functions, arguments, variables and attributes, so the test above can fail."""
    source = """
from a import b as Stored
class Line:
    def _give_back(self, asked, *, book=1): self._kept = known = 1
async def look_at():
    for found, (told, _) in {}: pass
    try: pass
    except ValueError as refusal: pass
    match x:
        case [placed, *heard]: pass
line, lines, outlined, knowns = known_keys, 1, 2, 3
"""
    assert private_names(source) == {
        "Stored", "Line", "_give_back", "asked", "book", "_kept", "known", "look_at", "found", "told", "refusal",
        "placed", "heard",
    }  # fmt: skip
