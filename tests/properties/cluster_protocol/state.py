"""What is stored in the slots, and the one kind of request that there is: guards, then writes, at one slot, atomically.

The state of all slots is one tuple, a value for each field of a `Layout`. A field is written as a tuple that begins
with its slot: `("C", ...)` the catalogue's, `("K", key, ...)` a key's, `("D", digest)` a digest's.
"""

from typing import NamedTuple

Token = tuple[str, int]
Field = tuple[str, ...]
Plans = tuple[tuple[str, str], ...]
"""The plans of a catalogue: (plan, the stages that it opens, a letter each), sorted."""


class Record(NamedTuple):
    """A key's record. `digests` holds (digest, 0 for open or 1 for ended in 1970), sorted."""

    state: str
    enabled: bool
    plans: frozenset[str]
    digests: tuple[tuple[str, int], ...]
    stamp: Token


class R(NamedTuple):
    """Field `r` of a key's hash; there is a hash exactly if there is an `r`."""

    version: int
    stamp: Token


class Intent(NamedTuple):
    """What stands in `intents[id]` while somebody works on the key."""

    token: Token
    touched: frozenset[str]
    digest: str | None = None


class Claim(NamedTuple):
    """What D holds: `id:token`."""

    key: str
    token: Token


VERSION: Field = ("C", "version")
PLANS: Field = ("C", "plans")
MEMBERS: Field = ("C", "members")
LIST: Field = ("C", "list")
HISTORY: Field = ("C", "history")
"""Every (version, plans) that there was. Nobody reads it but the invariants: a gateway may still have any of them."""


def plan_set(plan: str) -> Field:
    """The ids of the keys of a plan, and perhaps of more keys."""
    return ("C", "set", plan)


def intent(key: str) -> Field:
    """The intent of a key."""
    return ("C", "intent", key)


def record(key: str) -> Field:
    """The record of a key; None is absent."""
    return ("K", key, "record")


def r(key: str) -> Field:
    """The stamp and version that a check must come with."""
    return ("K", key, "r")


def claim(digest: str) -> Field:
    """The claim of a value."""
    return ("D", digest)


def slot(field: Field) -> Field:
    """Where a field lies."""
    return field[:1] if field[0] == "C" else field[:2]


def live(plans: frozenset[str], digest: str, stamp: Token) -> Record:
    """The record of a key that a value opens."""
    return Record("live", enabled=True, plans=plans, digests=((digest, 0),), stamp=stamp)


def draft(plans: frozenset[str], digest: str, stamp: Token) -> Record:
    """The record of a key that is being made: the digest is named, and opens nothing."""
    return Record("draft", enabled=False, plans=plans, digests=((digest, 1),), stamp=stamp)


def name_of(field: Field) -> str:
    """What a field is called in the table: version, members, intent, record, r, D."""
    return {"C": field[1], "K": field[-1], "D": "D"}[field[0]]


def with_digests(before: Record, digests: dict[str, int], stamp: Token) -> Record:
    """The record with other digests and a new stamp."""
    return before._replace(digests=tuple(sorted(digests.items())), stamp=stamp)


def is_live(value: Record | None) -> bool:
    """Whether there is a key: no draft, no tombstone."""
    return value is not None and value.state == "live"


def opens(value: Record | None, digest: str) -> bool:
    """Whether a value with this digest opens the key."""
    return is_live(value) and (digest, 0) in value.digests


def plan_for(value: Record, plans: Plans, stage: str) -> str | None:
    """The plan of a record that opens a stage."""
    return next((plan for plan, stages in plans if plan in value.plans and stage in stages), None)


def with_plan(plans: Plans, plan: str, stages: str | None) -> Plans:
    """The plans with one that is another, or is gone."""
    others = [item for item in plans if item[0] != plan]
    return tuple(sorted(others if stages is None else [*others, (plan, stages)]))


def may_hold(wanted: frozenset[str], plans: Plans) -> bool:
    """Whether a key may be in these plans: they exist, and no two of them open one stage."""
    stages = "".join(stages for plan, stages in plans if plan in wanted)
    return wanted <= {plan for plan, _ in plans} and len(stages) == len(set(stages))


# Writes: (verb, field, operand).


def put(field: Field, value):
    """Write a value; None removes it."""
    return ("put", field, value)


def add(field: Field, key: str):
    """Add a key to a set or the list."""
    return ("add", field, key)


def remove(field: Field, key: str):
    """Remove a key from a set or the list."""
    return ("remove", field, key)


def more(field: Field):
    """Count one more."""
    return ("more", field, 1)


def new_stamp(key: str, stamp: Token):
    """Write the stamp in `r`, and keep its version."""
    return ("stamp", r(key), stamp)


def raise_version(key: str, version: int, stamp: Token):
    """Write the stamp in `r`, and the version if it is greater."""
    return ("raise", r(key), R(version, stamp))


def put_stages(plan: str, stages: str | None):
    """Write one plan (None removes it), and one more in `version`."""
    return ("plan", PLANS, (plan, stages))


def drop_own(digest: str, key: str):
    """Remove a claim if it names the key, whatever its token."""
    return ("drop", claim(digest), key)


def forget(key: str, plans: frozenset[str]):
    """Remove a dead key from the list, from these sets and those of its intent, and the intent."""
    return ("forget", intent(key), plans)


class Request(NamedTuple):
    """One atomic step at one slot: if all guards hold, the writes are made.

    Attributes:
        step: Its name: operation and number as in the table of the page.
        guards: (field, expected value).
        writes: See the functions above.
        reads: Fields, or (field, key) for whether a set has the key; read before the writes.
        effect: If this step is the one that takes effect: what changes, of which key or plan, and how.
    """

    step: str
    guards: tuple = ()
    writes: tuple = ()
    reads: tuple = ()
    effect: tuple | None = None


class Reply(NamedTuple):
    """Whether the guards held, and what was read."""

    done: bool
    values: tuple = ()


def read(step: str, *reads) -> Request:
    """A request that reads."""
    return Request(step, reads=reads)


class Layout:
    """Which fields there are, and requests carried out on states."""

    def __init__(self, keys, digests, plans):
        self.keys, self.digests, self.plans = tuple(keys), tuple(digests), tuple(plans)
        fields = [VERSION, PLANS, MEMBERS, LIST, HISTORY, *map(plan_set, plans), *map(intent, keys)]
        fields += [field(key) for key in keys for field in (record, r)] + [claim(digest) for digest in digests]
        self.at = {field: number for number, field in enumerate(fields)}

    def first(self, keys: dict[str, tuple[str, str]], plans: Plans):
        """A state in which all is in agreement: keys by id, each with its plans and its value."""
        state = dict.fromkeys(self.at) | {VERSION: 0, MEMBERS: 0, PLANS: plans, HISTORY: ((0, plans),)}
        state |= {plan_set(plan): frozenset(key for key in keys if plan in keys[key][0]) for plan in self.plans}
        state[LIST] = frozenset(keys)
        for number, (key, (joined, digest)) in enumerate(keys.items()):
            stamp = ("first", number)
            state[record(key)] = live(frozenset(joined), digest, stamp)
            state[r(key)] = R(0, stamp)
            state[claim(digest)] = Claim(key, stamp)
        return tuple(state.values())

    def get(self, state, field: Field):
        """The value of a field."""
        return state[self.at[field]]

    def carry_out(self, state, request: Request):
        """(state, reply) of a request that runs alone, as every script does."""
        fields = [field for field, _ in request.guards] + [field for _, field, _ in request.writes]
        fields += [field[0] if isinstance(field[0], tuple) else field for field in request.reads]
        assert len({slot(field) for field in fields}) == 1, f"{request.step} is at more than one slot"
        values = tuple(self._read(state, each) for each in request.reads)
        if any(state[self.at[field]] != expected for field, expected in request.guards):
            return state, Reply(done=False, values=values)
        if not request.writes:
            return state, Reply(done=True, values=values)
        after = list(state)
        for write in request.writes:
            self._write(after, *write)
        return tuple(after), Reply(done=True, values=values)

    def _read(self, state, each):
        if isinstance(each[0], tuple):
            field, key = each
            return key in state[self.at[field]]
        return state[self.at[each]]

    def _write(self, after, verb, field, operand):  # noqa: C901 - one case for each verb
        at = self.at[field]
        before = after[at]
        match verb:
            case "put":
                after[at] = operand
            case "add":
                after[at] = before | {operand}
            case "remove":
                after[at] = before - {operand}
            case "more":
                after[at] = before + operand
            case "stamp":
                after[at] = R(before.version if before else 0, operand)
            case "raise":
                after[at] = R(max(before.version, operand.version) if before else operand.version, operand.stamp)
            case "plan":
                version = after[self.at[VERSION]] + 1
                after[at], after[self.at[VERSION]] = with_plan(before, *operand), version
                after[self.at[HISTORY]] = (*after[self.at[HISTORY]], (version, after[at]))
            case "drop":
                after[at] = None if before is not None and before.key == operand else before
            case "forget":
                key, touched = field[2], before.touched if before else frozenset()
                after[at] = None
                for each in (LIST, *(plan_set(plan) for plan in operand | touched)):
                    after[self.at[each]] -= {key}
            case _:
                raise AssertionError(verb)
