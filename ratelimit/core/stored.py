"""The documents of a catalogue, as Redis keeps them: each is taken in when somebody first asks for it.

A gateway knows all plans and meets few of them in a moment. Of every one it has to know no more than an outline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from ratelimit.model import Stage, UsagePlan

_T = TypeVar("_T")


class Outline(NamedTuple):
    """What has to be known of every plan and stage.

    listed  the methods that it lists, by stage; of a plan the stages that it opens
    leases  whether it has leases
    """

    listed: Mapping[str, frozenset[str]]
    leases: bool = False

    @classmethod
    def of_plan(cls, plan: UsagePlan) -> Outline:
        """Return that of a plan."""
        return cls({opened.stage: frozenset(opened.throttles) for opened in plan.stages}, bool(plan.lease))

    @classmethod
    def of_stage(cls, stage: Stage) -> Outline:
        """Return that of a stage."""
        return cls({stage.id: frozenset(stage.methods)})


class Stored(Mapping[str, _T]):
    """The documents of one kind, by id. Those that stand as they stood `before` are the same objects.

    `parse` and `outline` are told an id and a text, and raise StoreError for what they cannot read.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        parse: Callable[[str, str], _T],
        outline: Callable[[str, str], Outline],
        before: Stored[_T] | None = None,
    ) -> None:
        self._texts, self._parse = texts, parse
        self._parsed: dict[str, _T] = {}
        self.outlines: dict[str, Outline] = {}
        known = {} if before is None else before._texts
        for name, text in texts.items():
            if before is not None and known.get(name) == text:
                self.outlines[name] = before.outlines[name]
                if name in before._parsed:
                    self._parsed[name] = before._parsed[name]
            else:
                self.outlines[name] = outline(name, text)

    def __getitem__(self, name: str) -> _T:
        try:
            return self._parsed[name]
        except KeyError:
            parsed = self._parse(name, self._texts[name])
            return self._parsed.setdefault(name, parsed)  # another thread may have been faster

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, name: object) -> bool:
        return name in self._texts
