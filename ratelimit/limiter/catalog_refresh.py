"""How old the catalogue may be that checks go by, where its server may be away while a key's is not. No I/O."""

from __future__ import annotations

from copy import copy

from ratelimit.effects import InBackground, Operation, wait_briefly
from ratelimit.errors import ConfigError, StoreError
from ratelimit.model import MICROSECONDS
from ratelimit.registry.namespace import Namespace

_PACE_US = MICROSECONDS
"""An attempt that failed is followed by another one so much later."""
_PATIENCE_S = 0.01
"""For how long a check waits for an attempt, unless the last one failed."""


class CatalogRefresh:
    """Compares the snapshot with Redis beside checks, which go on by what is known. Safe between threads.

    Args:
        namespace: Whose snapshot.
        stale_s: For how many seconds checks go on by a snapshot that cannot be compared.
    """

    def __init__(self, namespace: Namespace, stale_s: float) -> None:
        self._namespace = namespace
        self._stale_us = int(stale_s * MICROSECONDS)
        self._is_failing = False
        self._failure: StoreError | ConfigError | None = None
        self._attempt_us: int | None = None

    def refresh(self, now_us: int) -> Operation[None]:
        """Compare a snapshot that may be outdated; a check waits for that briefly, and not at all after a failure.

        Raises:
            StoreError: It could not be compared for too long; or it was read, and cannot be used.
            ConfigError: The pepper is not the one that the keys were stored with.
        """
        confirmed_us = self._namespace.confirmed_us
        if confirmed_us is None or not 0 <= now_us - confirmed_us < self._stale_us:
            yield from self._namespace.refresh()
            return
        if self._attempt_us is None or not 0 <= now_us - self._attempt_us < _PACE_US:
            self._attempt_us = now_us
            if self._is_failing:
                yield InBackground(self._compare())
            elif not (yield from wait_briefly(self._compare(), _PATIENCE_S)):
                self._is_failing = True
        if self._failure is not None:
            # A copy: one that is raised again and again would keep the frames of all these checks.
            raise copy(self._failure)

    def _compare(self) -> Operation[None]:
        try:
            yield from self._namespace.refresh()
        except (StoreError, ConfigError) as error:
            self._is_failing = True
            # What was answered is no outage: nobody goes on by a catalogue that is known to be another.
            is_outage = isinstance(error, StoreError) and error.is_outage
            self._failure = None if is_outage else error
        else:
            self._is_failing, self._failure, self._attempt_us = False, None, None
