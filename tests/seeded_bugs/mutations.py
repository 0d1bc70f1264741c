"""How bugs are seeded: a text of the Lua sources replaced in memory, or a Python attribute."""

from dataclasses import dataclass

from helpers.lua_mutation import mutated

from ratelimit import scripts


@dataclass(frozen=True)
class Lua:
    """A bug in a script or what it includes: `right` becomes `wrong`."""

    name: str
    right: str
    wrong: str
    script: str = "check"

    def apply(self, monkeypatch):
        monkeypatch.setattr(scripts, "expanded", mutated(self.right, self.wrong, self.script))


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

    def apply(self, monkeypatch):
        monkeypatch.setattr(self.owner, self.attribute, self.wrong)
