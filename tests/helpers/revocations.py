"""Keys that are disabled one after the other while a primary fails: which of these changes are undone by the failover.

The administrator talks to the former primary all the time, as one would who is on its side of a cut. A gateway follows
the Sentinel, and asks again and again for keys whose disabling all replicas had acknowledged.

The table in docs/operations.md is what `PYTHONPATH=tests python -m helpers.revocations valkey redis6` prints.
"""

import sys
import time
from collections import Counter
from dataclasses import dataclass

from helpers.background import Background
from helpers.cable import Cable
from helpers.sentinel import NAME, WatchedPrimary
from helpers.waiting import wait_for
from ratelimit import Catalog, Limiter, StoreError, Throttle, UsagePlan

STAGE, METHOD = "petstore/prod", "GET /pets"
KEYS = 1500
PAUSE_S = 0.005
TIMEOUT_S = 0.05
BEFORE_S, AFTER_S = 1.0, 2.0
"""How long all goes well before the fault, and how long the former primary goes on after another one is named."""
MAX_LAG_S = 2

FAULTS = ("planned failover", "kill -9", "split brain")


@dataclass
class Outcome:
    """What became of the keys.

    Attributes:
        returned: How many were disabled, by what the administrator was answered.
        complete: Of these, those that all connected replicas had acknowledged, by the same answers.
        safe: Of these, those that are reported to be safe.
        refused: By cause, how many could not be disabled.
        undone: Of the returned ones, those that are enabled on the new primary.
        complete_undone: Of the complete ones, the same.
        checks: By status, the gateway's checks of complete ones, all after they were reported to be.
    """

    returned: int
    complete: int
    safe: int
    refused: Counter
    undone: int
    complete_undone: int
    checks: Counter


class Administrator(Background):
    """Disables keys in a thread, until it is left.

    Attributes:
        replications: By the id of each key that was disabled, what became of that.
        refused: By cause, how many were not.
    """

    def __init__(self, server, keys):
        super().__init__()
        self._client, self._keys = server.client(), keys
        self.replications, self.refused = {}, Counter()

    def _run(self):
        catalog = Catalog(self._client)
        for key in self._keys:
            if self._stopped:
                return
            try:
                changed = catalog.update_key(key.id, enabled=False, durable=True, durable_timeout=TIMEOUT_S)
            except StoreError as error:
                self.refused[error.cause] += 1
            else:
                self.replications[key.id] = changed.replication
            time.sleep(PAUSE_S)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._client.close()


class Gateway(Background):
    """Checks the keys that all replicas have disabled, as an administrator was answered, until it is left.

    Attributes:
        statuses: How often each was the answer.
    """

    def __init__(self, url, administrator, keys):
        super().__init__()
        self._url, self._administrator = url, administrator
        self._values = {key.id: key.value for key in keys}
        self.statuses = Counter()

    def _run(self):
        # Nothing from the process itself: each decision is one of the primary of that moment.
        with Limiter.from_url(self._url, deadline=0.2, denial_cache=False, max_age=0.5) as limiter:
            while not self._stopped:
                for key_id, replication in [*self._administrator.replications.items()]:
                    if replication.is_complete and not self._stopped:
                        self.statuses[limiter.check(self._values[key_id], STAGE, METHOD).status] += 1
                time.sleep(0.001)


def outcome_of(server_name, fault, *, has_min_replicas):
    """Have one primary fail; return what became of the keys that were disabled before, meanwhile and afterwards."""
    with (
        Cable() as cable,
        WatchedPrimary(
            server_name,
            f"sentinel down-after-milliseconds {NAME} 1000",
            f"sentinel failover-timeout {NAME} 5000",
            reach=cable.to,
        ) as watched,
    ):
        former, new = watched.primary.client(), watched.replica.client()
        if has_min_replicas:
            for client in (former, new):
                client.config_set("min-replicas-max-lag", MAX_LAG_S)
            former.config_set("min-replicas-to-write", 1)  # the new primary has no replica at first
        catalog = Catalog(former)
        catalog.put_plan(UsagePlan("gold", Throttle(10_000, 10_000), stages=[STAGE]))
        keys = [catalog.create_key(plans=["gold"]) for _ in range(KEYS)]
        former.publish("nothing", "")
        wait_for(lambda: former.wait(1, 1000) == 1, 20)
        administrator = Administrator(watched.primary, keys)
        gateway = Gateway(watched.url, administrator, keys)
        with gateway, administrator:
            time.sleep(BEFORE_S)
            {"planned failover": watched.fail_over, "kill -9": watched.kill, "split brain": cable.cut}[fault]()
            watched.wait_failed_over()
            time.sleep(AFTER_S)
            cable.mend()
            if fault != "kill -9":
                watched.wait_demoted()
            time.sleep(0.2)
        catalog = Catalog(new)
        enabled = {key.id for key in keys if catalog.get_key(key.id).enabled}
        former.close()
        new.close()
    replications = administrator.replications
    complete = {key_id for key_id, replication in replications.items() if replication.is_complete}
    return Outcome(
        len(replications),
        len(complete),
        sum(replication.is_safe for replication in replications.values()),
        administrator.refused,
        len(replications.keys() & enabled),
        len(complete & enabled),
        gateway.statuses,
    )


COLUMNS = (
    "server",
    "fault",
    "`min-replicas-to-write`",
    "disabled",
    "acknowledged by all",
    "undone",
    "of these, acknowledged by all",
    "refused",
)


def main():
    sys.stdout.write(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
    for name in sys.argv[1:] or ["valkey"]:
        for fault in FAULTS:
            for has_min_replicas in (False, True):
                got = outcome_of(name, fault, has_min_replicas=has_min_replicas)
                counts = got.returned, got.complete, got.undone, got.complete_undone, got.refused.total()
                cells = (name, fault, int(has_min_replicas), *counts)
                sys.stdout.write(f"| {' | '.join(map(str, cells))} |\n")
                sys.stderr.write(f"{name}: {got}\n")


if __name__ == "__main__":
    main()
