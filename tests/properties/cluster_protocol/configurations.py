"""What is explored: a first state; two administrators, a repairer and perhaps a gateway, each with what they do."""

from itertools import combinations_with_replacement

from properties.cluster_protocol.operations import repair_of
from properties.cluster_protocol.search import Process
from properties.cluster_protocol.state import Layout

PLANS, DIGESTS = "pq", "abc"
SPARE = "spare"
"""The id of a key that is made only by operations that run alone."""


def join(key, plan):
    """Put a key into a plan."""
    return "change plans", (key, frozenset(plan), frozenset())


def leave(key, plan):
    """Take a key out of a plan."""
    return "change plans", (key, frozenset(), frozenset(plan))


def move(key, old, new):
    """Take a key out of one plan and put it into another."""
    return "change plans", (key, frozenset(new), frozenset(old))


def create(key, digest, plans):
    """Make a key with a value."""
    return "create", (key, digest, frozenset(plans))


def import_row(key, digest, plans):
    """A row of a file; `key` is the id that is used if the value opens none."""
    return "import row", (key, digest, frozenset(plans))


def rotate(key, digest):
    """Give a key another value."""
    return "rotate", (key, digest)


def disable(key):
    """Disable a key."""
    return "disable", (key,)


def delete(key):
    """Delete a key."""
    return "delete", (key,)


def put_plan(plan, stages):
    """Have a plan open these stages, a letter each."""
    return "put plan", (plan, stages)


def delete_plan(plan):
    """Delete a plan."""
    return "delete plan", (plan,)


def alone(keys):
    """What is tried alone after each repair."""
    for plan in PLANS:
        yield from (put_plan(plan, stages) for stages in ("", "s", "st"))
        yield delete_plan(plan)
        for digest in DIGESTS:
            yield create(SPARE, digest, plan)
            yield import_row(SPARE, digest, plan)
    for key in keys:
        yield disable(key)
        yield delete(key)
        yield from (rotate(key, digest) for digest in DIGESTS)
        for plan, other in (PLANS, PLANS[::-1]):
            yield from (join(key, plan), leave(key, plan), move(key, plan, other))


class World:
    """A first state: keys by id, each with its plans and its value; which stages each plan opens; what is done in it.

    `operations` are of two administrators: every pair of them is explored, also both doing the same. `made` are the ids
    of keys that they make.
    """

    def __init__(self, keys, plans, operations, made=()):
        self.keys, self.plans, self.operations, self.made = keys, plans, operations, made

    def pairs(self):
        """Names of what two administrators do at once; the ids that they make differ (R7)."""
        for one, other in combinations_with_replacement(self.operations, 2):
            ids = [self.operations[each][1][0] for each in (one, other)]
            if ids[0] != ids[1] or ids[0] not in self.made:
                yield f"{one} / {other}"


WORLDS = {
    "one key": World(
        {"k1": ("p", "a")},
        {"p": "s", "q": "t"},
        {
            "join q": join("k1", "q"),
            "leave p": leave("k1", "p"),
            "move to q": move("k1", "p", "q"),
            "disable": disable("k1"),
            "rotate to b": rotate("k1", "b"),
            "rotate to c": rotate("k1", "c"),
            "delete": delete("k1"),
            "create with b in q": create("k2", "b", "q"),
            "create with a in p": create("k3", "a", "p"),
            "import a into q": import_row("k4", "a", "q"),
            "import b into q": import_row("k4", "b", "q"),
            "q opens s too": put_plan("q", "st"),
            "p opens t instead": put_plan("p", "t"),
            "delete plan q": delete_plan("q"),
            "delete plan p": delete_plan("p"),
            "create k1 again": create("k1", "b", "q"),
            "join p": join("k1", "p"),
        },
        made=("k2", "k3", "k4"),
    ),
    "a key without a plan, two plans of one stage": World(
        {"k1": ("", "a")},
        {"p": "s", "q": "s"},
        {
            "join p": join("k1", "p"),
            "join q": join("k1", "q"),
            "q opens t": put_plan("q", "t"),
            "delete plan p": delete_plan("p"),
            "import a into p": import_row("k2", "a", "p"),
            "import a into q": import_row("k3", "a", "q"),
        },
        made=("k2", "k3"),
    ),
    "a key in two plans": World(
        {"k1": ("pq", "a")},
        {"p": "s", "q": ""},
        {
            "p opens t too": put_plan("p", "st"),
            "q opens t": put_plan("q", "t"),
            "leave p": leave("k1", "p"),
            "delete": delete("k1"),
            "delete plan q": delete_plan("q"),
        },
    ),
    "two keys": World(
        {"k1": ("p", "a"), "k2": ("q", "b")},
        {"p": "s", "q": "t"},
        {
            "k1 rotates to c": rotate("k1", "c"),
            "k2 rotates to c": rotate("k2", "c"),
            "k2 rotates to a": rotate("k2", "a"),
            "delete k1": delete("k1"),
            "k2 moves to p": move("k2", "q", "p"),
            "p opens t too": put_plan("p", "st"),
            "create with c in p": create("k3", "c", "p"),
        },
        made=("k3",),
    ),
    "no key": World(
        {},
        {"p": "s", "q": "t"},
        {
            "create with a in p": create("k1", "a", "p"),
            "create with a in q": create("k2", "a", "q"),
            "import a into p": import_row("k3", "a", "p"),
            "import a into q": import_row("k4", "a", "q"),
            "create with b in p and q": create("k5", "b", "pq"),
            "q opens s too": put_plan("q", "st"),
            "delete plan p": delete_plan("p"),
        },
        made=("k1", "k2", "k3", "k4", "k5"),
    ),
}


class Configuration:
    """A world, a pair of operations in it, and how often a gateway checks value "a" for stage "s".

    With `is_reversed`, of requests that leave together the last arrives first.
    """

    def __init__(self, world, pair, checks=1, *, is_reversed=False):
        world = WORLDS[world]
        chosen = [world.operations[name] for name in pair.split(" / ")]
        made = [arguments[0] for _, arguments in chosen if arguments[0] in world.made]
        keys, plans = [*world.keys, *made], tuple(world.plans.items())
        self.layout = Layout((*keys, SPARE), DIGESTS, PLANS)
        self.first = self.layout.first(world.keys, plans)
        self.operations = [*alone((*keys, SPARE))]
        self.processes = [
            Process(name, *operation, is_reversed=is_reversed) for name, operation in zip("ABC", chosen, strict=False)
        ]
        repairs = repair_of(*keys or (SPARE,))
        self.processes.append(Process("repairer", *repairs, took_effect=None, is_reversed=is_reversed))
        if checks:
            arguments = ("a", "s", (0, plans), None, checks - 1)
            self.processes.append(Process("gateway", "check", arguments, took_effect=None))


def everything():
    """(world, pair) of all configurations."""
    return [(name, pair) for name, world in WORLDS.items() for pair in world.pairs()]
