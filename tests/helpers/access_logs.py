"""A small access log whose decisions are worked out by hand, and a model of one plan, written independently."""

import tomllib
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction


def line(second, client="10.0.0.1", request="GET /", zone="+0000"):
    """One line of a log of the first minute of 2026-03-04."""
    return f'{client} - - [04/Mar/2026:00:00:{second:02} {zone}] "{request} HTTP/1.1" 200 1 "-" "-"\n'


# Second, client, request; and what `basic` on web/prod makes of it, by hand.
SMALL = [
    (0, "10.0.0.1", "GET /a", "admitted"),
    (0, "10.0.0.1", "GET /b?q=1", "admitted"),
    (0, "10.0.0.1", "GET /c", "throttled"),  # two tokens are gone
    (0, "10.0.0.1", "GET /search?q=1", "admitted"),  # a bucket of its own
    (0, "10.0.0.1", "GET /search?q=2", "throttled"),
    (1, "10.0.0.1", "GET /a", "throttled"),  # half a token
    (1, "2001:db8::2", "GET /slow", "admitted"),
    (1, "2001:db8::2", "GET /slow", "admitted"),
    (1, "10.0.0.3", "GET /slow", "throttled"),  # the stage's bucket is shared by all
    (1, "10.0.0.3", "GET /health", "admitted"),  # needs no key, counts nowhere
    (2, "10.0.0.1", "GET /a", "admitted"),
    (9, "10.0.0.1", "GET /a", "over quota"),  # 4 a day
    (9, "10.0.0.1", "GET /health", "admitted"),
]
SMALL_LOG = "".join(line(second, client, request) for second, client, request, _ in SMALL)


def window(period, second):
    """What names the quota window of a second, UTC."""
    day = second // 86400
    if period == "WEEK":
        return (day + 4) // 7  # 1970-01-01 was a Thursday, weeks start on Sunday
    return day if period == "DAY" else datetime.fromtimestamp(second, UTC).strftime("%Y-%m")


def counted_as(method, listed):
    """The method as which a plan or a stage counts one that lists these."""
    verb, _, path = method.partition(" ")
    return f"GET {path}" if verb == "HEAD" and method not in listed else method


class PlanModel:
    """The limits of one plan of a plan file, in fractions, for whole seconds and a cost of 1."""

    def __init__(self, text, plan_id, stage_id):
        data = tomllib.loads(text, parse_float=str)
        self.plan, self.plan_id, self.stage_id = data["plans"][plan_id], plan_id, stage_id
        self.account, self.stage = data.get("account"), data.get("stages", {}).get(stage_id)
        opened = [plan["stages"] for plan in data["plans"].values() if isinstance(plan["stages"], dict)]
        self.entries = {}
        if isinstance(self.plan["stages"], dict):
            self.entries = self.plan["stages"][stage_id].get("throttles", {})
        self.methods = (self.stage or {}).get("methods", {})
        self.listed = set(self.methods).union(*(item.get(stage_id, {}).get("throttles", ()) for item in opened))
        self.levels, self.used = {}, Counter()

    def buckets(self, client, method):
        """(name, owner, throttle) of each bucket that a request meets, in the order in which they are reported."""
        own, method = counted_as(method, self.entries), counted_as(method, self.methods)
        if self.methods.get(method, {}).get("key_required", True):
            if own in self.entries:
                yield f"plan:{self.plan_id}:{own}", client, self.entries[own]
            elif "throttle" in self.plan:
                yield f"plan:{self.plan_id}", client, self.plan["throttle"]
        shared = self.methods.get(method, {}).get("throttle") or (self.stage or {}).get("throttle")
        if shared:
            yield f"stage:{self.stage_id}:{method if method in self.listed else '*'}", None, shared
        if self.account:
            yield "account", None, self.account

    def denied_by(self, second, client, method):
        """The name of the first limit that denies; None if all admit, and then they are charged."""
        at_stage = counted_as(method, self.methods)
        is_listed = at_stage in self.methods or counted_as(method, self.entries) in self.entries
        if (self.stage or {}).get("unlisted") == "deny" and not is_listed:
            return "method_not_listed"
        levels, denying = {}, []
        for name, owner, throttle in self.buckets(client, method):
            level, last = self.levels.get((name, owner), (Fraction(throttle["burst"]), second))
            level = min(Fraction(throttle["burst"]), level + (second - last) * Fraction(throttle["rate"]))
            levels[name, owner] = (level - 1, second)
            denying += [name] if level < 1 else []
        quota = self.plan.get("quota")
        counts = quota and self.methods.get(at_stage, {}).get("key_required", True)
        counter = (client, window(quota["period"], second)) if counts else None
        if counts and self.used[counter] >= quota["limit"]:
            denying.append(f"quota:{self.plan_id}")
        if denying:
            return denying[0]
        self.levels.update(levels)
        if counts:
            self.used[counter] += 1
        return None
