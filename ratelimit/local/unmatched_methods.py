"""Texts that are passed as methods and are none, `VERB /template`: counted, and each named once in the log. No I/O."""

from __future__ import annotations

import logging
import re
from threading import Lock

from ratelimit import validation
from ratelimit.local import fork_safety
from ratelimit.registry.redis_keys import OTHERS

log = logging.getLogger("ratelimit")

_MAX_WARNINGS = 100
_MAX_SEEN = 4096
_MAX_LENGTH = 300
"""A method has at most 290 characters."""
_LONG_WORD = re.compile(r"[!-~]{20,}")
"""May be a key's value, or have one in it."""


class UnmatchedMethods:
    """Counts the checks of this process whose method no plan or stage could list. Safe between threads.

    Attributes:
        count: How many there were; from 0 in a child process.
        methods: Texts that `add` has found to be methods lately. A plain dict: each check of an unlisted method looks.
    """

    def __init__(self) -> None:
        self.methods: dict[str, None] = {}
        self._others: dict[str, None] = {}
        self._warned: set[str] = set()
        self.reset_after_fork()
        fork_safety.register_fork_reset(self)

    def reset_after_fork(self) -> None:
        """Start from zero: the parent's count is the parent's."""
        self._lock = Lock()
        self.count = 0

    def add(self, method: str) -> None:
        """Count a method that nobody lists, if nobody could; the first time, warn of it."""
        if not isinstance(method, str):
            return  # `check` raises
        is_method = method not in self._others and (method == OTHERS or validation.is_method(method))
        with self._lock:
            self.count += not is_method
            if method in self._others:
                return
            if len(method) <= _MAX_LENGTH:
                _remember(self.methods if is_method else self._others, method)
        if not is_method:
            self._warn(method)

    def _warn(self, method: str) -> None:
        without_values = _LONG_WORD.sub(lambda match: f"<{len(match[0])} characters>", method)
        shown = validation.shown(without_values)
        with self._lock:
            if shown in self._warned or len(self._warned) >= _MAX_WARNINGS:
                return
            self._warned.add(shown)
            is_last = len(self._warned) == _MAX_WARNINGS
        log.warning(
            "the method %s is no '<VERB> <template>', such as 'GET /pets/{id}': no plan or stage can list it, and only "
            "the limits of unlisted methods apply. Pass the template of the matched route%s",
            shown,
            " (no more such methods are logged; all are counted)" if is_last else "",
        )


def _remember(texts: dict[str, None], text: str) -> None:
    """Add a text; forget all others if there are too many. To be called under the lock."""
    if len(texts) >= _MAX_SEEN:
        texts.clear()
    texts[text] = None
