"""Random worlds of checks that are asked at once: most are usual, so that few are left out.

`helpers.batch_scenarios` makes such too, and looks for what is odd.
"""

from random import Random

from helpers.batch_scenarios import (
    FIELDS,
    IDENTITIES,
    KEYS,
    RULES,
    SHARED,
    TOKEN_OF_IDENTITIES,
    WINDOW,
    PreparedCheck,
)
from helpers.lua_tools import SortedSet
from vectors.packing import COUNTED, DAY, NOW, PLAN, TEN, TODAY, doubles, state, version_token

KEPT_US = 60_000_000


class World:
    """One world: `state` is what Redis holds at first, `asked` are the checks.

    now          the server's time
    request_now  what a check says of the clock: 0 for the server's
    """

    def __init__(self, seed, now=NOW, request_now=NOW):
        self._random = Random(seed)
        self._now, self._request_now = now, request_now
        self.state = self._stored()
        few = [self._check() for _ in range(self._random.choice((1, 2, 3)))]
        number = self._random.randrange(1, 11)
        self.asked = [self._random.choice(few) if self._random.random() < 0.6 else self._check() for _ in range(number)]

    def _mostly(self, usual, *others):
        return usual if self._random.random() < 0.97 else self._random.choice(others)

    def _last(self):
        """When something was charged last: in this half minute, mostly."""
        now = self._now
        near = [now, now - 1, now - 50_000, now - 123_456 if now % 30_000_000 else now]
        return self._mostly(self._random.choice(near), now - 40_000_000, now + 1, now + 3_000_000, 0)

    def _bucket(self, burst, _rate, per):
        full = burst * per
        packed = doubles(self._mostly(per, per + 1), self._random.choice((full, full, full // 2, per)), self._last())
        return self._mostly(packed, None, b"short")

    def _plan_state(self):
        random = self._random
        packed = state(
            random.choice((500_000, 500_000, 300_000, 100_000, 99_999)),
            per=self._mostly(100_000, 0, 400_000),
            last=self._last(),
            window=self._mostly(WINDOW, WINDOW - 64, 0),
            used=random.choice((0, 0, 1, 5, 8)),
            granted=self._mostly(0, -1, 3),
            day=self._mostly(TODAY, TODAY - 1),
            day_used=random.randrange(9),
        )
        return self._mostly(packed, None, bytes(64))

    def _hash(self, token):
        fields = {"r": self._mostly(token, version_token(8), b"", None), PLAN: self._plan_state()}
        fields |= {field: self._bucket(*RULES[field]) for field in FIELDS}
        return {name: value for name, value in fields.items() if value is not None}

    def _stored(self):
        held = {key: self._mostly(self._hash(version_token()), b"no hash") for key in KEYS}
        held |= {key: self._mostly(self._hash(TOKEN_OF_IDENTITIES), None) for key in IDENTITIES}
        held[COUNTED] = self._random.choice((None, SortedSet({"other": self._now + DAY})))
        for place in SHARED:
            held[place] = self._mostly(self._bucket(*RULES[place]), b"no bucket", {"no": b"string"})
        return {key: value for key, value in held.items() if value is not None}

    def _check(self):
        random, mostly = self._random, self._mostly
        own = random.choice(((), (), (), *((field,) for field in FIELDS), FIELDS))
        shared = random.choice(((), (), SHARED[:1], SHARED[1:], SHARED))
        plan = mostly((0, 0, 0) if own or random.random() < 0.2 else TEN, TEN)
        windows = mostly((TODAY, TODAY + 1, TODAY + 2), (TODAY - 1, TODAY, TODAY + 1), (1, 2, 3))
        quota = random.choice(((-1, 0, 0, 0), (10, *windows)))
        cost = mostly(random.choice((1, 1, 1, 2, 3)), 0, 6, 11, 0.5)
        key = random.choice((*KEYS, *IDENTITIES))
        is_identity = key in IDENTITIES
        flags = random.choice((1, 1, 3)) + 32 * is_identity
        until = KEPT_US if is_identity else mostly(0, self._now, self._now + 1, self._now - DAY)
        counted, bound = ((COUNTED,), (9, 1)) if is_identity and random.random() < 0.5 else ((), ())
        flags += 128 * bool(counted)
        flags = mostly(flags, flags + 64, flags - 1, 2, 99)
        token = TOKEN_OF_IDENTITIES if is_identity else mostly(version_token(), version_token(8))
        further = [number for place in (*own, *shared) for number in mostly(RULES[place], (5, 0, 1))]
        tail = mostly(b"", bytes(8))
        head = doubles(self._request_now, cost, until, flags, *plan, *quota)
        request = head + token + doubles(*further, *bound) + tail
        arguments = (request, PLAN.encode(), *(field.encode() for field in own))
        return PreparedCheck((key, *shared, *counted), arguments, bytes((len(own), len(shared))))
