"""A copy of the Lua sources, in which one file at a time is a mutant."""

import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from seeded_bugs.mutants.mutator import mutants

from ratelimit import scripts

DIRECTIVE = re.compile(r"^ *-- @(?:include|inline) (\S+)$", re.MULTILINE)


class Sources:
    """The copy. What is imported from when it is made on reads scripts there.

    Attributes:
        root: Its folder.
        texts: The files as they are, by their paths in lua/ without the suffix.
        scripts: Those that are sent to a server.
        read: The scripts that were read since somebody cleared this.
    """

    def __init__(self):
        self._parent = tempfile.TemporaryDirectory(prefix="mutants-")
        self.root = Path(self._parent.name) / "lua"
        shutil.copytree(scripts.folder(), self.root)
        scripts.folder, scripts.expanded = lambda: self.root, self._noted(scripts.expanded)
        self.read = set()
        self.texts = {
            path.relative_to(self.root).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(self.root.rglob("*.lua"))
        }
        self.scripts = [part for part in self.texts if "/" not in part]

    def _noted(self, expanded):
        def noted(name):
            self.read.add(name)
            return expanded(name)

        return noted

    def mutants(self):
        """All mutants of all files."""
        return [mutant for part, text in self.texts.items() for mutant in mutants(part, text)]

    def scripts_with(self, part):
        """The scripts of which a file is part, or which it is."""
        return [script for script in self.scripts if part in self._parts(script)]

    def _parts(self, part):
        return {part}.union(*map(self._parts, DIRECTIVE.findall(self.texts[part])))

    @contextmanager
    def mutated(self, mutant):
        """Have a mutant in the place of its file meanwhile."""
        path = self.root / f"{mutant.part}.lua"
        try:
            path.write_text(mutant.source, encoding="utf-8")
            scripts.load.cache_clear()
            yield
        finally:
            path.write_text(self.texts[mutant.part], encoding="utf-8")
            scripts.load.cache_clear()
