"""How bugs are seeded: a text of the Lua sources replaced in memory, or a Python attribute."""

from dataclasses import dataclass

from ratelimit.core import scripts


@dataclass(frozen=True)
class Lua:
    """A bug in a script or what it includes: `right` becomes `wrong`."""

    name: str
    right: str
    wrong: str
    script: str = "check"

    def put_in(self, monkeypatch):
        expanded = scripts.expanded
        # No AssertionError, and not only once the promise runs: a bug that is not there must not pass for one found.
        if expanded(self.script).count(self.right) != 1:
            raise ValueError(f"{self.right!r} is not there, or not once: adapt the seeded bug")

        def mutated(name):
            source = expanded(name)
            return source.replace(self.right, self.wrong) if name == self.script else source

        monkeypatch.setattr(scripts, "expanded", mutated)


def Many(name, right, wrong):  # noqa: N802 - reads as `Lua` does
    """A bug in check_many.lua."""
    return Lua(f"at once: {name}", right, wrong, "check_many")


@dataclass(frozen=True)
class Python:
    """A bug in Python: `wrong` replaces the attribute `name` of `owner`."""

    name: str
    owner: object
    attribute: str
    wrong: object

    def put_in(self, monkeypatch):
        monkeypatch.setattr(self.owner, self.attribute, self.wrong)
