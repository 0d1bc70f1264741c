"""The site's settings. `make docs` builds it.

Its sources are the documents where they lie, so that their links work on GitHub and on the site alike: the repository
is Sphinx' source folder, and this file says what of it belongs to the site.
"""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import django.conf
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.ext import napoleon
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import ratelimit  # noqa: E402 - of this checkout

django.conf.settings.configure()  # Django REST framework reads settings when it is imported

project = "ratelimit-redis"
author = "the authors of ratelimit-redis"
version = release = ratelimit.__version__
copyright = author  # noqa: A001 - Sphinx' name for it

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "lua/*.md", "benchmarks/README.md"]
exclude_patterns = [".*", "*/.*", "site", "results", "dist", "build", "tests", "ratelimit", "scripts"]
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # as GitHub makes them

html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "source_repository": "https://github.com/ratelimit-redis/ratelimit-redis/",
    "source_branch": "main",
    "source_directory": "",
}

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
ALIASES = [name for name in ratelimit.__all__ if not inspect.isclass(getattr(ratelimit, name))]
DEFINED_IN = {
    alias.name: node.module
    for node in ast.parse(inspect.getsource(ratelimit)).body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
    if alias.name in ALIASES
}
autodoc_type_aliases = {name: f"ratelimit.{name}" for name in ALIASES} | {"ASGIApp": "ASGIApp"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Settings", "params_style")]
default_role = "py:obj"  # docstrings mark names of Python by single backticks

OURS = "|".join(["ratelimit", *ratelimit.__all__])
nitpick_ignore_regex = [
    (r"py:obj", r"ratelimit\.result"),  # an attribute of spans
    (r"py:class", r"ratelimit\..*\._[A-Z]"),  # variables of types
    (r"py:.*", rf"(?!(?:{OURS})\.).*"),  # arguments, and names of other libraries, whose inventories are on the network
]

for field in PyObject.doc_field_types:
    if field.name == "variable":
        field.label = "Attributes"


class GoogleDocstring(napoleon.GoogleDocstring):
    """The docstrings of this package: types stand in annotations, so what is before a colon is none."""

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
        return [("", "", self._dedent(self._consume_to_next_section()))]

    def _consume_inline_attribute(self) -> tuple[str, list[str]]:
        return "", self._consume_to_end()

    def _lookup_annotation(self, _name: str) -> str:
        return re.sub(r"(?:\w+\.)+(\w+)", r"\1", super()._lookup_annotation(_name))


napoleon.GoogleDocstring = GoogleDocstring  # type: ignore[misc]


def public_name(target: str) -> str | None:
    """The name under which the reference documents something of `ratelimit`, wherever it is defined and named."""
    module, _, name = target.rpartition(".")
    if module.startswith("ratelimit.") and name in ratelimit.__all__:
        return f"ratelimit.{name}"
    return f"ratelimit.{target}" if target.partition(".")[0] in ratelimit.__all__ else None


def resolve_where_defined(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Link an annotation, which names the module of a class, to where the class is documented."""
    public = public_name(node.get("reftarget", ""))
    if public is None or node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, content)


def shorten_aliases(
    app: Sphinx, what: str, name: str, item: object, options: object, signature: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """Show an alias in a signature by its name alone, as classes are shown."""

    def short(text: str | None) -> str | None:
        text = text and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", text)
        text = text and text.replace("=<factory>", "={}")
        return text and re.sub(r"(?<![~\w.])ratelimit\.(?=[A-Z])", "~ratelimit.", text)

    return short(signature), short(result)


def describe_alias(app: Sphinx, what: str, name: str, item: object, options: object, lines: list[str]) -> None:
    """Take an alias's docstring from below its definition: autodoc looks where it is imported."""
    alias = name.rpartition(".")[2]
    if what == "data" and alias in DEFINED_IN:
        described = ModuleAnalyzer.for_module(DEFINED_IN[alias]).find_attr_docs()
        lines[:] = described.get(("", alias), []) + [""] + [line for line in lines if line.startswith("alias of")]


def lead_to_the_first_page(app: Sphinx, error: Exception | None) -> None:
    """The sources of the site's first page are in `docs/`, and so is the page."""
    if error is None and app.builder.name == "html":
        first = f"{root_doc}.html"
        text = f'<!doctype html><meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{project}</a>\n'
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above."""
    app.connect("autodoc-process-signature", shorten_aliases)
    app.connect("autodoc-process-docstring", describe_alias)
    app.connect("missing-reference", resolve_where_defined)
    app.connect("build-finished", lead_to_the_first_page)
    return {"parallel_read_safe": True}
