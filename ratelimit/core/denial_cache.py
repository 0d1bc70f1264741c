"""Who is known to be out is refused in this process: by the last states seen, and the script's own arithmetic.

Every reply that judged a check tells how the limits of the request stand. What a limit had at some time it refills in a
known way, and others can only take from it: what would not admit a request then, does not admit it now. Who raises a
limit says so on the channel of changes, and what is known is dropped; without that message it lives `max_age`.

Nobody is refused whom Redis would admit. In one process, under a clock of its own, every answer is the script's.

Nothing is kept until a first check is denied: processes that deny nobody spend no time here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Lock

from ratelimit.core import forks
from ratelimit.core.book import PlanBook
from ratelimit.core.bounded import Bounded
from ratelimit.core.question import Question
from ratelimit.core.windows import DAY_US
from ratelimit.core.wire import ADMITTED, ADMITTED_DAY_OVER, DENIED, NEVER, Call, Reply, State, StateAt, status
from ratelimit.decision import Decision
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS

_MOST_KEYS = 100_000
_MOST_NOTES = 16
_JUDGED = frozenset({DENIED, ADMITTED, ADMITTED_DAY_OVER})

_Note = tuple[Call, Reply, int, int, bytes]
"""A reply as it came: the limits it is about, the reply, the server's time in it, this process' clock at sending, and
the identity of what was judged: the catalogue and the key's record."""

_Seen = tuple[State, int, int]
"""A state of a shared limit; the server's time of the reply, and this process' clock at sending."""


class KeyPlace:
    """What is known of one key: the last replies, of different limits. Each shows that the script judged the key."""

    __slots__ = ("notes",)

    def __init__(self) -> None:
        self.notes: tuple[_Note, ...] = ()


class SharedPlace:
    """What is known of the limits that all callers share, by where their states are kept."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: dict[str, _Seen] = {}


Places = tuple[KeyPlace | None, SharedPlace]
"""Where the reply to a check belongs, taken along when it is sent. A place that was dropped meanwhile is nobody's."""


class DenialCache:
    """The last states seen by a process, for at most 100,000 keys. Safe between threads.

    keeps  whether anything is kept: from a first denial on, until there was none for twice `max_age`
    """

    def __init__(self, max_age: float, *, clock: Callable[[], int], is_injected: bool, is_on: bool) -> None:
        self._max_age_us = int(max_age * MICROSECONDS)
        self._clock = clock
        self._is_injected = is_injected
        self._is_on = is_on
        self.start_anew()
        forks.starts_anew(self)
        self.keeps = False
        self._until_us = self._seen_us = 0
        self._book: PlanBook | None = None
        self._drop_all()

    def start_anew(self) -> None:
        """Make the lock anew; what is known holds in a child process as well."""
        self._lock = Lock()

    def _drop_all(self) -> None:
        self._own: Bounded[str, KeyPlace] = Bounded(_MOST_KEYS)
        self._shared = SharedPlace()

    def forget(self, key_id: str | None) -> None:
        """Drop what is known of a key, or of everything if it is None: somebody said that it changed."""
        with self._lock:
            if key_id is None:
                self._drop_all()
            else:
                self._own.forget(key_id)

    def take(self, question: Question, now_us: int) -> Places | None:
        """Return the places in which the reply to a check belongs that is sent now; None where nothing is kept."""
        with self._lock:
            if not self._is_kept(question, now_us):
                return None
            key_id = question.key_id
            own = self._own.get(key_id) if key_id else None
            if own is None and key_id:
                own = KeyPlace()
                self._own.put(key_id, own)
            return own, self._shared

    def _is_kept(self, question: Question, now_us: int) -> bool:
        """Tell whether something is kept under the question's book. To be asked under the lock."""
        if self._book is not question.book:
            self._book = question.book
            self._drop_all()
        self._see(now_us)
        if now_us >= self._until_us:
            self.keeps = False
        return self.keeps

    def _see(self, now_us: int) -> None:
        if now_us < self._seen_us:
            if not self._is_injected:
                return  # no clock went back: another thread looked at it later, and was here first
            # The clock went back: what is known is of the future, and limits may be re-anchored.
            self._drop_all()
            self._until_us = now_us + 2 * self._max_age_us
        self._seen_us = now_us

    def lose(self, question: Question) -> None:
        """Drop what a check met that may have been charged, and whose reply says nothing."""
        with self._lock:
            self._lose(question, own=True, shared=True)

    def _lose(self, question: Question, *, own: bool, shared: bool) -> None:
        if own and question.key_id:
            self._own.forget(question.key_id)
        if shared and question.call.shares:
            self._shared = SharedPlace()

    def note(self, question: Question, places: Places | None, reply: Reply, sent_us: int) -> None:
        """Keep what the reply to a check says that was sent at `sent_us` and had a cost."""
        try:
            self._note(question, places, reply, sent_us)
        except StoreError:  # it cannot be read: what was charged, nobody knows
            self.lose(question)
            raise

    def _note(self, question: Question, places: Places | None, reply: Reply, sent_us: int) -> None:
        code = status(reply)
        if code not in _JUDGED:
            return
        now_us = self._clock()
        with self._lock:
            if code == DENIED:
                self._was_denied(now_us)
            if not self.keeps:
                return
            self._see(now_us)
            own, shared = places or (None, None)
            is_late = not 0 <= now_us - sent_us < self._max_age_us
            is_own_lost = is_late or own is None or self._own.get(question.key_id) is not own
            is_shared_lost = is_late or self._shared is not shared
            if is_late or code != DENIED:  # what is charged and not kept would make the rest untrue
                self._lose(question, own=is_own_lost, shared=is_shared_lost)
            if is_late:
                return
            call = question.call
            server_us = call.time_us(reply)
            if own is not None and not is_own_lost:
                self._note_own(own, (call, reply, server_us, sent_us, question.identity), now_us)
            if shared is not None and not is_shared_lost and call.shares:
                self._note_shared(shared, call, reply, server_us, sent_us, now_us)

    def _was_denied(self, now_us: int) -> None:
        if not self._is_on:
            return
        if not self.keeps:
            # Only replies to what is sent from now on: an earlier check may be charged, and answered later.
            self._drop_all()
            self._seen_us = now_us
            self.keeps = True
        self._until_us = now_us + 2 * self._max_age_us

    def _is_old(self, sent_us: int, now_us: int) -> bool:
        return not 0 <= now_us - sent_us < self._max_age_us

    def _note_own(self, place: KeyPlace, note: _Note, now_us: int) -> None:
        call, reply, server_us, *_ = note
        states = call.states(reply)  # a reply that cannot be read is not kept
        kept = list[_Note]()
        for before in place.notes:
            if self._is_old(before[3], now_us):
                continue
            if before[0] is call:
                if before[2] > server_us or (before[2] == server_us and call.states(before[1]) <= states):
                    return  # of the same limits something later is known, or something lower
                continue
            kept.append(before)
        if len(kept) >= _MOST_NOTES:
            # The oldest go, all of one time: what is left must be the latest of each limit that it tells.
            oldest_us = min(each[2] for each in kept)
            kept = [each for each in kept if each[2] > oldest_us]
            if server_us <= oldest_us:
                place.notes = tuple(kept)
                return
        place.notes = (note, *kept)

    def _note_shared(
        self, place: SharedPlace, call: Call, reply: Reply, server_us: int, sent_us: int, now_us: int
    ) -> None:
        seen = dict(place.seen)
        for (_, limit, where), state in zip(call.places, call.states(reply), strict=True):
            if not limit.shared:
                continue
            before = seen.get(where)
            if before is None or self._is_old(before[2], now_us) or (server_us, before[0]) > (before[1], state):
                seen[where] = state, server_us, sent_us
        place.seen = seen

    def answer(self, question: Question, cost: int, now_us: int) -> tuple[Decision, int] | None:
        """Return the refusal of a request and the server's day on which it is made; None if it has to be asked."""
        if now_us < self._seen_us or now_us >= self._until_us or self._book is not question.book:
            return None  # `take` sees to that
        if question.lease is not None:
            return None  # what leases give back may admit the key at any time
        own = self._own.get(question.key_id)
        states = self._known(question, own.notes if own is not None else (), now_us)
        if states is None:
            return None
        call = question.call
        latest_us = max([server_us for _, _, server_us in states], default=0)
        if 0 < question.valid_until_us <= latest_us:
            return None
        denial = call.denial(states, cost)
        if denial is None or (question.book.has_leases and not _denies_alone(call, states, cost)):
            return None
        reason, limited_by, wait_us = denial
        retry_after = None if wait_us == NEVER else wait_us / MICROSECONDS
        limits = partial(call.statuses, states, cost)
        return Decision(reason, limited_by, retry_after, limits, None, "denial_cache"), latest_us // DAY_US

    def _known(self, question: Question, notes: tuple[_Note, ...], now_us: int) -> list[StateAt] | None:
        """Return the state of every limit and the server's time now; None if one is not known or a window has ended."""
        call, oldest_us = question.call, now_us - self._max_age_us
        notes = tuple([note for note in notes if oldest_us < note[3] <= now_us])
        if question.key_id and question.identity not in [note[4] for note in notes]:
            return None  # the script did not judge this key, as it is now
        told = [note[0].states(note[1]) for note in notes]
        shared = self._shared.seen
        found = list[StateAt]()
        for at, limit, where in call.places:
            seen = shared.get(where) if limit.shared else _latest(call, at, where, notes, told)
            if seen is None:
                return None
            (first, second), server_us, sent_us = seen
            if not oldest_us < sent_us <= now_us:
                return None
            server_us = now_us if self._is_injected else server_us + now_us - sent_us
            if not call.rules[at].is_bucket and second <= server_us:
                return None  # the quota's window has ended
            found.append((first, second, server_us))
        return found


def _latest(call: Call, at: int, where: str, notes: tuple[_Note, ...], told: list[list[State]]) -> _Seen | None:
    """Return the latest state of a key's own limit, at equal times the lowest, from notes and what they tell."""
    if len(notes) == 1 and notes[0][0] is call:
        return told[0][at], notes[0][2], notes[0][3]
    found = [
        (note[2], states[index], note[3])
        for note, states in zip(notes, told, strict=True)
        if (index := note[0].own_at.get(where)) is not None
    ]
    if not found:
        return None
    server_us, state, sent_us = min(found, key=lambda each: (-each[0], each[1]))
    return state, server_us, sent_us


def _denies_alone(call: Call, states: list[StateAt], cost: int) -> bool:
    """Tell whether only a key's own limits deny. What leases of other keys give back may raise a shared one."""
    return all(not limit.shared or not call.rules[at].wait_us(states[at], cost) for at, limit, _ in call.places)
