"""Lines that a user writes to limit an application: those of its file that the bare application's file has not."""

import ast
import difflib

SETTINGS = "benchmarks.contenders.frameworks.settings"
"""What a real application has in its own settings. To import it is not counted, for nobody."""


def code_lines(source):
    """Lines of code: without docstrings, comments and blank lines, and without the import of the settings."""
    skipped = set()
    for node in ast.walk(ast.parse(source)):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or (isinstance(node, ast.ImportFrom) and node.module == SETTINGS):
            skipped.update(range(node.lineno, node.end_lineno + 1))
    lines = (line.partition("  # noqa")[0].rstrip() for line in source.splitlines())
    return [
        line
        for number, line in enumerate(lines, 1)
        if number not in skipped and line and not line.lstrip().startswith("#")
    ]


def lines_written(bare, limited):
    """Lines of the second file that are new or changed, beside the first."""
    before, after = code_lines(bare), code_lines(limited)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [line for tag, _, _, start, end in matcher.get_opcodes() if tag != "equal" for line in after[start:end]]
