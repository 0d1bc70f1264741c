"""The documents of a catalogue, as Redis keeps them: each is parsed when it is first read.

A gateway knows all plans and meets few of them at a time. Of every one it needs no more than a summary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

from ratelimit.model import Stage, UsagePlan

_T = TypeVar("_T")


class DocumentSummary(NamedTuple):
    """What is needed of every plan and stage.

    Attributes:
        listed: The methods that it lists, by stage; of a plan the stages that it opens.
        leases: Whether it has leases.
        denies: Whether it denies methods that are not listed.
    """

    listed: Mapping[str, frozenset[str]]
    leases: bool = False
    denies: bool = False

    @classmethod
    def of_plan(cls, plan: UsagePlan) -> DocumentSummary:
        """Return the summary of a plan."""
        return cls({stage.stage: frozenset(stage.throttles) for stage in plan.stages}, bool(plan.lease))

    @classmethod
    def of_stage(cls, stage: Stage) -> DocumentSummary:
        """Return the summary of a stage."""
        return cls({stage.id: frozenset(stage.methods)}, denies=stage.unlisted == "deny")


class LazyDocuments(Mapping[str, _T]):
    """The documents of one kind, by id. Those whose text equals that in `before` are the same objects.

    `parse` and `summarize` take an id and a text, and raise StoreError for a text that they cannot read.
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        parse: Callable[[str, str], _T],
        summarize: Callable[[str, str], DocumentSummary],
        before: LazyDocuments[_T] | None = None,
    ) -> None:
        self._texts, self._parse = texts, parse
        self._parsed: dict[str, _T] = {}
        self.summaries: dict[str, DocumentSummary] = {}
        former_texts = {} if before is None else before._texts
        for name, text in texts.items():
            if before is not None and former_texts.get(name) == text:
                self.summaries[name] = before.summaries[name]
                if name in before._parsed:
                    self._parsed[name] = before._parsed[name]
            else:
                self.summaries[name] = summarize(name, text)

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
