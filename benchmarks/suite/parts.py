"""The parts of the suite, in the order in which they run, with what a reader has to know about each."""

from types import ModuleType
from typing import NamedTuple

from benchmarks.suite import (
    batches,
    exactness,
    growth,
    import_keys,
    instructions,
    latency,
    memory,
    propagation,
    tail,
    throughput,
    unknown_keys,
)
from benchmarks.suite.clusters import one_check, shared_limits
from benchmarks.suite.network import far, stop
from benchmarks.suite.web import frameworks


class Part(NamedTuple):
    """A part: its module has `measure(full)`, `figures(result)` and `tables(result)`.

    It may have `plot(plt, result)`, which returns a figure or None, and `headlines(result)`, the ratios to show for
    every machine, which `HEADLINES` explains. pytest-benchmark measures `latency`, so that has no `measure`.

    long  only in the full run, or by --only
    """

    module: ModuleType
    title: str
    about: str
    long: bool = False


PARTS = {
    "latency": Part(
        latency,
        "One call",
        "CPU and wall time of one call by one caller on one connection, all contenders in turn, round after round. A "
        "peer keeps one limit per call; a check keeps a token bucket and a daily quota and looks at the key besides.",
    ),
    "exactness": Part(
        exactness,
        "Exactness",
        "What each limiter admits, against the exact maximum of the rule that it states itself.",
    ),
    "throughput": Part(
        throughput,
        "Throughput",
        "Tasks of one event loop (many, whose checks are sent in batches, and one), and processes that share keys. "
        "Limits over processes admit exactly the calls that are made and not one more. Percentages are the share of "
        "its core that the server used. A check costs its client as much as its server, so the last table has clients "
        "that send prepared checks: there the server is full, and more processes share what it can do.",
    ),
    "memory": Part(
        memory,
        "Memory",
        "Bytes in Redis for one caller with a throttle and a daily quota, by the server's own accounts; peers at the "
        "same two limits.",
    ),
    "instructions": Part(
        instructions,
        "Cost to the server",
        "Instructions that the server executes per call, counted by callgrind: hardly any noise, but specific to the "
        "build of the server.",
    ),
    "cluster": Part(
        one_check,
        "A cluster",
        "Instructions of all servers per check by the limits of a key, on a cluster beside one server: a check is one "
        "script on one key, at one node.",
    ),
    "growth": Part(
        growth,
        "Cost as work grows",
        "The same check with more limits, more stored keys and more plans; the first check of a process (which "
        "connects and loads the catalogue), the first check of a key in a process, and later ones. Of one check at "
        "most six limits are evaluated, which is all that the model has: the plan's bucket (or the method's in its "
        "place), the stage's, the account's and the quota, and the bucket and the quota of the plan's shadow, which "
        "never deny. The script takes more: it is also called by hand, with 1 limit to 8.",
    ),
    "frameworks": Part(
        frameworks,
        "Web frameworks",
        "What a limiter adds to a request of a web application, under its usual server, beside the same application "
        "without one: one process on a core of its own, 32 requests under way, paired rounds. CPU time is that of the "
        "server's processes; the wall's time is what the application loses of its throughput, waiting for Redis "
        "included. A peer keeps one fixed window of each route, or two of them, which is what this library enforces: a "
        "token bucket and a daily quota; it looks at the key besides. Lines are those that a user writes beside the "
        "bare application of three routes.",
    ),
    "tail": Part(
        tail,
        "Latency under a steady load",
        "Requests arrive by a fixed random schedule, whether or not earlier ones are answered, and latency counts from "
        "the moment a request was due: a stall is felt by all who arrive during it. On the tasks of one event loop, "
        "and on four processes that wait for each answer, where a request also waits for the one ahead of it.",
        long=True,
    ),
    "batches": Part(
        batches,
        "Size of a batch",
        "How many checks of an event loop one script call should carry: the more, the cheaper each, and the longer "
        "everybody else on the server waits for the script. And whether threads should batch their checks as well.",
        long=True,
    ),
    "propagation": Part(
        propagation,
        "How soon a change is in force",
        "From the commit of a changed plan to the last decision by the old one, on replicas that learn of the change "
        "by the push alone.",
        long=True,
    ),
    "unknown_keys": Part(
        unknown_keys,
        "Unknown keys",
        "What callers without a good key cost those who have one: requests per second by the share of keys that do not "
        "exist, all of them distinct and well-formed; a flood of them, sent by tasks that wait for each answer, and "
        "sent all at once; and the CPU time of a request that is denied. Tasks that all begin at once stop the event "
        "loop of their process until the last one has begun: how long as many tasks that do nothing take for that is "
        "shown beside it.",
        long=True,
    ),
    "stop": Part(
        stop,
        "A server that stops",
        "What callers notice of a Redis that stops as a whole for some seconds, and how soon all is as before: calls "
        "that end per second, with a decision or without, and how long each took. Peers keep the time limits that they "
        "have by default.",
        long=True,
    ),
    "far": Part(
        far,
        "A server that is far",
        "Requests that arrive on a schedule while a round trip takes 30 ms, and nothing else is slower: a limiter that "
        "sends one batch after the other, or waits for a free connection, waits for several of them.",
        long=True,
    ),
    "shared_limits": Part(
        shared_limits,
        "Shared limits on a cluster",
        "Limits of stages and of the account, leased by many processes: the code of the library and the script on a "
        "server, in virtual time. Nothing is timed; every unit that is spent is replayed in one exact bucket.",
        long=True,
    ),
    "import_keys": Part(
        import_keys,
        "Import of keys",
        "Keys from a CSV file, imported in a process of its own: keys per second, its memory, and what keys take in "
        "Redis.",
        long=True,
    ),
}
