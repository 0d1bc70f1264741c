"""What one process knows of a namespace: its names, its clock, and the last plan book it loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from ratelimit.core import document, schema, validate
from ratelimit.core.book import PlanBook
from ratelimit.core.ceilings import Ceilings
from ratelimit.core.digest import Digester, Peppers, generated_token
from ratelimit.core.flow import Flow, Reads, pairs, text
from ratelimit.core.names import Names
from ratelimit.core.schema import SCHEMA
from ratelimit.core.scripts import Command
from ratelimit.core.stored import Outline, Stored
from ratelimit.errors import ConfigError, StoreError
from ratelimit.model import MICROSECONDS, Stage, UsagePlan

Clock = Callable[[], int]
_T = TypeVar("_T")


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class Namespace:
    """Shared by a limiter and its catalogue, so that a change made through one is seen by the other at once."""

    def __init__(self, namespace: str, pepper: Peppers, clock: Clock | None) -> None:
        self.names = Names(namespace)
        self.digest = Digester(pepper)
        self.clock = clock
        # The time by which this process tells how old things are: the injected clock, else a monotonic one.
        self.age_us: Clock = self.wall_us if clock else _monotonic_us
        self.book = PlanBook()
        # When a plan last ceased to lease: for a while yet others may give units back, and nobody says so.
        self.leases_ended_us = -validate.EXACT
        self.ceilings = Ceilings()
        self.before_refresh: Callable[[], None] = lambda: None
        # A weak reference to what takes the id of a key that changed, or None if anything may have.
        self.on_change: Callable[[], Callable[[str | None], None] | None] = lambda: None
        self.loaded_us: int | None = None
        self._pushes = self._loads = 0
        self._is_asked_for = self._is_refreshed = False
        self._stored_probes: list[str] = []
        self._plans: Stored[UsagePlan] | None = None
        self._stages: Stored[Stage] | None = None

    def wall_us(self) -> int:
        """Return microseconds since 1970: the injected clock, else this machine's (for first guesses and records)."""
        return self.script_us() or time.time_ns() // 1000

    def script_us(self) -> int:
        """Return the time that goes to the script: the injected clock's, or 0 for the server's own."""
        if self.clock is None:
            return 0
        now_us = self.clock()
        if type(now_us) is int and 0 < now_us < validate.EXACT:
            return now_us
        raise ConfigError(
            f"must return microseconds since 1970, a whole number from 1 to {validate.EXACT - 1}, "
            f"not {validate.shown(now_us)}",
            field="clock",
        )

    def server_us(self) -> Flow[int]:
        """Ask for the time that scripts go by: microseconds since 1970."""
        now_us = self.script_us()
        if now_us:
            return now_us
        seconds, microseconds = (yield [("TIME",)])[0]
        return int(seconds) * MICROSECONDS + int(microseconds)

    def needs_look(self, max_age_us: int, now_us: int) -> bool:
        """Tell whether the book was last compared with Redis longer than `max_age_us` ago, or never.

        What the catalogue of this process loaded does not count until checks have begun: nobody listens before that.
        """
        loaded_us = self.loaded_us
        return loaded_us is None or not self._is_refreshed or not 0 <= now_us - loaded_us < max_age_us

    def heard(self, message: str | None) -> None:
        """Take in what was said on the channel of changes; None if something may have been said that was not heard.

        "key:<id>" tells of one key, "keys" of many; anything else, such as a version, of plans and stages.
        """
        key_id = message.removeprefix("key:") if message is not None and message.startswith("key:") else None
        on_change = self.on_change()
        if on_change is not None:
            on_change(key_id)
        if key_id is None and message != "keys":
            self._pushes += 1
            self.loaded_us = None  # the next check compares the book with Redis

    def new_probes(self) -> tuple[str, str] | None:
        """Return what the catalogue says of peppers, and should if keys are now stored under one that it lacks."""
        newest, stored = self.digest.probes[0], " ".join(self._stored_probes)
        return None if newest in self._stored_probes else (stored, f"{newest} {stored}")

    def version_query(self) -> Command:
        """Return the command whose reply `is_current` takes."""
        return ("HMGET", self.names.catalog, "epoch", "version", "stamp", "schema")

    def is_current(self, reply: list[bytes | str | None]) -> bool:
        """Tell whether the book is the version that Redis holds."""
        epoch, version, stamp = text(reply[0]), text(reply[1]), text(reply[2])
        current = (epoch or "", version or "0", stamp or "") == self.book.edition
        current = current and (not epoch or text(reply[3]) == str(SCHEMA))
        if current and self.loaded_us is not None:
            self.loaded_us = self.age_us()
        return current

    def refresh(self) -> Flow[None]:
        """Compare the book with Redis and load it if another version holds."""
        self.before_refresh()
        self._is_refreshed = True
        before, is_first = self.loaded_us, not self._loads
        if not is_first:
            self.loaded_us = self.age_us()  # others go by the book that there is meanwhile
        elif self._is_asked_for:
            # Somebody has asked for the first book. Where replies come in order, it is here before this small one.
            yield Reads([self.version_query()])
            if self._loads:
                return
        self._is_asked_for = True
        try:
            if before is None or not self.is_current((yield Reads([self.version_query()]))[0]):
                yield from self.load(or_others=is_first)
        except BaseException:
            self.loaded_us = before
            raise

    def load(self, *, for_change: bool = False, or_others: bool = False) -> Flow[PlanBook]:
        """Load the book, whatever version is known; `or_others`: or go by what others have loaded meanwhile.

        A catalogue that was here and is gone is a fault of the store, unless it is loaded to be made anew.
        """
        pushes, loads = self._pushes, self._loads
        (reply,) = yield Reads([("HGETALL", self.names.catalog)])
        if or_others and loads != self._loads:
            return self.book
        book = self._parsed(reply)
        if not book.epoch:
            yield from self._refuse_schema_1(for_change=for_change)
        if self.book.epoch and not book.epoch:
            self.loaded_us = None
            if for_change:
                return book
            raise schema.gone(self.names)
        if book.edition != self.book.edition:
            if self.book.leased - book.leased:
                self.leases_ended_us = self.age_us()
            self.book = book
        self._loads += 1
        # A change that was pushed while the reply was on its way may not be in it.
        self.loaded_us = self.age_us() if pushes == self._pushes else None
        return self.book

    def _refuse_schema_1(self, *, for_change: bool) -> Flow[None]:
        """Raise StoreError if an empty catalogue is none: its keys are under their names of schema 1, or were lost."""
        try:
            ((epoch,),) = yield Reads([("HMGET", self.names.former_catalog, "epoch")])
        except StoreError as error:
            if "WRONGTYPE" not in str(error):
                raise
            if not for_change:
                raise schema.gone(self.names) from None  # what an upgrade left there says that there was one
            return
        if epoch is not None:
            raise schema.of_schema_1(self.names)

    def first_fields(self) -> list[str]:
        """Return what a catalogue is begun with: fields and texts, in turn."""
        return ["schema", str(SCHEMA), "epoch", generated_token(), "pepper", self.digest.probes[0]]

    def _parsed(self, reply: Any) -> PlanBook:
        unreadable = f"the catalogue {self.names.catalog!r} in Redis cannot be read"
        try:
            fields = pairs(reply)
        except StoreError as error:
            raise StoreError(f"{unreadable}: {error}") from None
        if not fields:
            return PlanBook()
        schema.refuse_other(self.names, fields.get("schema"))
        self._stored_probes = fields.get("pepper", "").split()
        if not self._stored_probes:
            raise StoreError(f"{unreadable}: it has lost its 'pepper'")
        if not set(self._stored_probes) & set(self.digest.probes):
            raise ConfigError(
                f"is not the one that the keys of namespace {self.names.namespace!r} were stored with: every key "
                "would be unknown. Pass the pepper that the catalogue was made with",
                field="pepper",
            )
        self._plans = plans = self._stored("plan", fields, document.plan_from_json, document.plan_outline, self._plans)
        self._stages = stages = self._stored(
            "stage", fields, document.stage_from_json, document.stage_outline, self._stages
        )
        try:
            return PlanBook(
                _epoch(fields["epoch"]),
                _version(fields["version"]),
                plans,
                stages,
                document.throttle_from_json(fields["account"]) if "account" in fields else None,
                fields.get("stamp", ""),
            )
        except (KeyError, ValueError, RecursionError) as error:
            raise StoreError(f"{unreadable}: {error}") from None

    def _stored(
        self,
        kind: str,
        fields: Mapping[str, str],
        parse: Callable[[str, str], _T],
        outline: Callable[[str, str], Outline],
        before: Stored[_T] | None,
    ) -> Stored[_T]:
        start, told = f"{kind}:", f"the catalogue {self.names.catalog!r} in Redis cannot be read: {kind}"
        texts = {name[len(start) :]: value for name, value in fields.items() if name.startswith(start)}
        return Stored(texts, partial(_read, parse, told), partial(_read, outline, told), before)


def _epoch(text: str) -> str:
    if len(text) != 8 or not text.isascii():  # as it stands in identities
        raise ValueError("its 'epoch' is not 8 characters of ASCII")
    return text


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):  # identities have ten digits for it
        raise ValueError(f"the version {validate.shown(text)} is none")
    return int(text)


def _read(make: Callable[[str, str], _T], told: str, name: str, text: str) -> _T:
    try:
        return make(name, text)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{told} {name!r}: {error}") from None
