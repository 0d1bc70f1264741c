"""Who is known to be out is refused in this process: by the last states seen, and the script's own arithmetic.

Every reply that judged a check tells how the limits of the request stand. What a limit had at some time it refills in a
known way, and others can only take from it: what would not admit a request then, does not admit it now. Who raises a
limit says so on the channel of changes, and what is known is dropped; without that message it lives `max_age`.

Nobody is refused whom Redis would admit. In one process, under a clock of its own, every answer is the script's.

Nothing is kept until a first check is denied: processes that deny nobody spend no time here.
"""

from __future__ import annotations

from threading import Lock
from typing import NamedTuple

from ratelimit.core import forks
from ratelimit.core.book import PlanBook
from ratelimit.core.bounded import Bounded
from ratelimit.core.question import Question
from ratelimit.core.state import Namespace
from ratelimit.core.wire import ADMITTED, ADMITTED_DAY_OVER, DENIED, Call, Numbers, Reply, status
from ratelimit.decision import Decision
from ratelimit.errors import StoreError
from ratelimit.model import MICROSECONDS

_MOST_KEYS = 100_000
_MOST_NOTES = 16
_JUDGED = frozenset({DENIED, ADMITTED, ADMITTED_DAY_OVER})


class Note(NamedTuple):
    """A reply about a key, as it came.

    call       the limits that it is about
    server_us  the server's time in it
    sent_us    this process' clock when the check was sent
    reply      what it says: all states joined if `is_joined`, else two numbers of each limit
    identity   the catalogue and the record under which the key was judged
    room       the largest cost that it left room for, to see quickly that a request is not denied; -1: work it out
    """

    call: Call
    server_us: int
    sent_us: int
    reply: bytes
    is_joined: bool
    identity: bytes
    room: float

    def numbers(self) -> Numbers:
        """Return two numbers of each limit."""
        numbers: Numbers = self.call.unpack(self.call.packed(self.reply) if self.is_joined else self.reply)
        return numbers


class Seen(NamedTuple):
    """What was said of one limit: its two numbers, the server's time then, and this process' clock at sending."""

    level: float
    last_us: float
    server_us: int
    sent_us: int


class KeyPlace:
    """What is known of one key: the last replies, of different limits. Each shows that the script judged the key."""

    __slots__ = ("notes",)

    def __init__(self) -> None:
        self.notes: tuple[Note, ...] = ()


class SharedPlace:
    """What is known of the limits that all callers share, by where their states are kept."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}


Places = tuple[KeyPlace | None, SharedPlace]
"""Where the reply to a check belongs, taken along when it is sent. A place that was dropped meanwhile is nobody's."""


class Denial(NamedTuple):
    """What was worked out from what is known: it holds as long as that is the very same, for the cost, in that time.

    notes, seen     what it was worked out from: what is known is replaced, never changed
    from_us, until_us  by this process' clock
    ahead_us        how far the server's clock is ahead of it
    first, end_us   the limit that denies first, and the server's time from which on none does
    """

    notes: tuple[Note, ...]
    seen: dict[str, Seen]
    cost: int
    from_us: int
    until_us: float
    ahead_us: int
    numbers: Numbers
    first: int
    end_us: float


class DenialCache:
    """The last states seen by a process, for at most 100,000 keys. Safe between threads.

    keeps  whether anything is kept: from a first denial on, until there was none for twice `max_age`
    """

    def __init__(self, state: Namespace, max_age: float, *, is_on: bool) -> None:
        self._state = state
        self._max_age_us = int(max_age * MICROSECONDS)
        self._is_injected = state.clock is not None
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
                return  # a monotonic clock: another thread looked at it later, and was here first
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
        if not isinstance(reply, bytes):
            question.call.numbers(reply)  # what cannot be read is no reply
        now_us = self._state.age_us()
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
                is_joined = isinstance(reply, bytes)
                said, room = (reply, call.room(reply)) if isinstance(reply, bytes) else (reply[2], -1)
                self._note_own(own, Note(call, server_us, sent_us, said, is_joined, question.identity, room), now_us)
            if shared is not None and not is_shared_lost and call.shares:
                self._note_shared(shared, call, call.numbers(reply), server_us, sent_us, now_us)

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

    def _note_own(self, place: KeyPlace, note: Note, now_us: int) -> None:
        notes = place.notes
        if not notes or (len(notes) == 1 and notes[0].call is note.call and notes[0].server_us < note.server_us):
            place.notes = (note,)
            return
        kept: list[Note] = []
        for before in notes:
            if self._is_old(before.sent_us, now_us):
                continue
            if before.call is note.call:
                is_same = before.server_us == note.server_us
                if before.server_us > note.server_us or (is_same and before.numbers() <= note.numbers()):
                    return  # of the same limits something later is known, or something lower
                continue
            kept.append(before)
        if len(kept) >= _MOST_NOTES:
            # The oldest go, all of one time: what is left must be the latest of each limit that it tells.
            oldest_us = min(each.server_us for each in kept)
            kept = [each for each in kept if each.server_us > oldest_us]
            if note.server_us <= oldest_us:
                place.notes = tuple(kept)
                return
        place.notes = (note, *kept)

    def _note_shared(
        self, place: SharedPlace, call: Call, numbers: Numbers, server_us: int, sent_us: int, now_us: int
    ) -> None:
        seen = dict(place.seen)
        for at, limit, where in call.places:
            if not limit.shared:
                continue
            before, level = seen.get(where), numbers[2 * at]
            if before is None or self._is_old(before.sent_us, now_us) or _is_better(server_us, level, before):
                seen[where] = Seen(level, numbers[2 * at + 1], server_us, sent_us)
        place.seen = seen

    def answer(self, question: Question, cost: int, now_us: int) -> tuple[Decision, int] | None:
        """Return the refusal of a request and the server's time at which it is made; None if it has to be asked."""
        if question.is_leased or now_us - self._state.leases_ended_us < self._max_age_us:
            return None  # what leases give back may admit the key at any time
        if (
            self._book is not question.book
            or now_us >= self._until_us
            or (self._is_injected and now_us < self._seen_us)
        ):
            return None  # `take` sees to that
        own = self._own.get(question.key_id)
        notes, seen = () if own is None else own.notes, self._shared.seen
        if len(notes) == 1 and notes[0].call is question.call and _has_room(notes[0], seen, cost):
            return None
        denial = question.denial
        if (
            denial is None
            or denial.notes is not notes
            or denial.seen is not seen
            or denial.cost != cost
            or not denial.from_us <= now_us < denial.until_us
        ):
            denial = question.denial = self._worked_out(question, notes, seen, cost, now_us)
            if denial is None:
                return None
        _, _, _, _, _, ahead_us, numbers, first, end_us = denial
        server_us = now_us + ahead_us
        decision = question.call.denied(first, end_us - server_us, numbers, server_us, cost, None, "denial_cache")
        return decision, server_us

    def _worked_out(
        self, question: Question, notes: tuple[Note, ...], seen: dict[str, Seen], cost: int, now_us: int
    ) -> Denial | None:
        known = self._known(question, notes, seen, now_us)
        if known is None:
            return None
        call, (numbers, ahead_us, fresh_until_us) = question.call, known
        server_us = now_us + ahead_us
        denial = call.denial(numbers, server_us, cost)
        if denial is None or (
            call.shares and question.book.leased and not _denies_alone(call, numbers, server_us, cost)
        ):
            return None
        first, its_end_us, end_us = denial
        ends_us = [its_end_us]  # then another limit is the first, or none
        if question.valid_until_us:
            ends_us.append(question.valid_until_us)
        if call.plan.quota is not None:
            ends_us.append(numbers[-1])  # the quota's window ends
        until_us = min(*ends_us, fresh_until_us + ahead_us) - ahead_us
        if now_us >= until_us:
            return None
        return Denial(notes, seen, cost, now_us, until_us, ahead_us, numbers, first, end_us)

    def _known(
        self, question: Question, notes: tuple[Note, ...], shared: dict[str, Seen], now_us: int
    ) -> tuple[Numbers, int, int] | None:
        """Return what all limits said, how far the server's clock is ahead, and until when one may go by it.

        None if anything is missing. Each reply has a time of its own: the quota's is what all are put to.
        """
        call = question.call
        notes = tuple([note for note in notes if not self._is_old(note.sent_us, now_us)])
        judged = [note.sent_us for note in notes if note.identity == question.identity]
        if question.key_id and not judged:
            return None  # the script did not judge this key as it is now
        found: list[Seen] = []
        for at, limit, where in call.places:
            seen = shared.get(where) if limit.shared else _latest(call, at, where, notes)
            if seen is None or self._is_old(seen.sent_us, now_us):
                return None
            found.append(seen)
        if not found:
            return None
        aheads_us = [0 if self._is_injected else seen.server_us - seen.sent_us for seen in found]
        ahead_us = aheads_us[-1]  # a quota is the last of the limits
        numbers: list[float] = []
        for seen, its_ahead_us in zip(found, aheads_us, strict=True):
            numbers += (seen.level, seen.last_us + ahead_us - its_ahead_us)
        oldest_us = min([seen.sent_us for seen in found])
        if judged:
            oldest_us = min(oldest_us, max(judged))
        return tuple(numbers), ahead_us, oldest_us + self._max_age_us


def _is_better(server_us: int, level: float, before: Seen) -> bool:
    """Tell whether a state is to be gone by rather than another: the later one, at equal times the lower."""
    return (server_us, before.level) > (before.server_us, level)


def _has_room(note: Note, seen: dict[str, Seen], cost: int) -> bool:
    """Tell whether what a key's own reply and others say of shared limits leaves room for a cost."""
    if cost > note.room:
        return False
    for where, per in note.call.shared_pers:
        shared = seen.get(where)
        if shared is None or shared.level < cost * per:
            return False
    return True


def _latest(call: Call, at: int, where: str, notes: tuple[Note, ...]) -> Seen | None:
    """Return the latest that notes say of a key's own limit, at equal times the lowest."""
    best: Seen | None = None
    for note in notes:
        index = at if note.call is call else note.call.own_at.get(where)
        if index is None:
            continue
        level, last_us = note.numbers()[2 * index : 2 * index + 2]
        if best is None or _is_better(note.server_us, level, best):
            best = Seen(level, last_us, note.server_us, note.sent_us)
    return best


def _denies_alone(call: Call, numbers: Numbers, now_us: int, cost: int) -> bool:
    """Tell whether only a key's own limits deny. What leases of other keys give back may raise a shared one."""
    admits_us = call.admits_us(numbers, cost)
    return not any(limit.shared and us > now_us for us, limit in zip(admits_us, call.limits, strict=True))
