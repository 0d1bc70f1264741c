"""What shared_lease.lua credits for units that nobody spent: never more than the bucket would have without them."""

from random import Random

import pytest
from helpers.shared_script import NOW, ExactBucket, Script, throttle

LIMITS = [(2000, 60), (1000, 20), (3000, 30), (300, 30), (100_000, 50), (50, 200), (7, 9), (0, 5), ("0.3", 8)]
STEPS = 120


class Bucket:
    """One bucket on the server, and what was charged to it."""

    def __init__(self, client, limit):
        client.flushall()
        self.script, self.exact = Script(client), ExactBucket()
        self.now, self.passed = NOW, 0
        self.limits = [throttle(*limit)]
        self.open = []  # charge, its version, when it was made: what may be returned

    def ask(self, version, **asked):
        reply = self.script(self.now, self.limits[version - 1], version=f"epoch--1{version:010}", **asked)
        if reply.status == 1:
            charge = self.exact.charge(reply.last, self.limits[version - 1], reply.granted)
            self.open.append((charge, version, reply.last, self.passed))
        else:
            assert version < len(self.limits)
        return reply

    @property
    def limit(self):
        return self.limits[-1]

    def charge(self, random):
        """As some process does: for who waits, and ahead."""
        waiting = random.choice([0, 1, 2, 3, 8])
        self.ask(len(self.limits), waiting=waiting, ahead=random.choice([0, 5, 50]), multiple=random.choice([1, 1, 3]))

    def drain(self, random):
        """Another one takes all there is."""
        self.ask(len(self.limits), waiting=self.limit.burst + random.randrange(3))

    def return_(self, random):
        """Give units of a charge back, a while after it or some time more: the process waited for its reply."""
        if not self.open:
            return
        charge, version, charged_us, passed = random.choice(self.open[-4:])
        units = random.choice([charge[2], random.randint(0, charge[2])])
        if version == len(self.limits):
            charge[2] -= units
            waited_us = self.passed - passed + random.choice([0, 0, 0, 130_000])
            self.ask(version, returned=[(units, charged_us, waited_us)])

    def pass_(self, random):
        fills_us = int(1e6 * self.limit.burst / float(self.limit.rate or 1))
        # Full now and then, and within an epoch: a credit is what was missing to full all the time.
        parts = [1, fills_us // 50, fills_us // 10, fills_us // 3, fills_us]
        microseconds = random.choice(parts if fills_us < 100_000 else [1, 1_000, 20_000])
        if random.random() < 0.1:
            microseconds = random.choice([125_000, 250_000, fills_us])
        self.now += microseconds
        self.passed += microseconds

    def change(self, random):
        self.limits.append(throttle(*random.choice(LIMITS)))

    def old_version(self, random):
        self.ask(max(1, len(self.limits) - random.randrange(3)), waiting=self.limit.burst)

    def clock_back(self, random):
        self.now -= random.choice([1_000, 1_900_000, 2_100_000])

    def lose(self, _):
        """The server loses the bucket: what was charged before is another's history."""
        self.exact.verify()
        self.script.client.delete(self.script.key)
        self.now += 1
        self.passed += 1
        self.exact.charges = []


USUAL = [Bucket.charge] * 3 + [Bucket.return_] * 4 + [Bucket.drain] * 2 + [Bucket.pass_] * 5
RARE = [[], [Bucket.change, Bucket.old_version], [Bucket.clock_back], [Bucket.lose]]


def mints_nothing(client, seed):
    random = Random(seed)
    bucket = Bucket(client, random.choice(LIMITS))
    steps = USUAL + random.choice(RARE)
    for _ in range(STEPS):
        random.choice(steps)(bucket, random)
    bucket.exact.verify()


@pytest.fixture(scope="module")
def shared_client(running):
    with running["valkey"].client() as made:
        yield made


@pytest.mark.parametrize("seed", range(0, 200, 20))
def test_a_return_mints_nothing(shared_client, seed):
    """What was granted, less what was given back, fits one exact bucket: at any time, whatever was lost or changed."""
    for each in range(seed, seed + 20):
        mints_nothing(shared_client, each)
