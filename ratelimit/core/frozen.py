"""What the words of the model are made of: a mapping that never changes, a value that no copy has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

_V = TypeVar("_V")


class FrozenMap(Mapping[str, _V], Generic[_V]):
    """A mapping that is hashable, picklable and never changes."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, _V] | Iterable[tuple[str, _V]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> _V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


class Valued:
    """Keeps a key's value where nothing looks that goes through the fields of a dataclass."""

    __slots__ = ("_value",)
    _value: str | None
