"""What must hold: in every state, over every step, of every outcome, and after a repair. Each says if it is broken."""

from properties.cluster_protocol.gateway import ADMITTED, LOST
from properties.cluster_protocol.operations import DONE, REFUSED, UNCHANGED
from properties.cluster_protocol.state import (
    HISTORY,
    LIST,
    PLANS,
    claim,
    intent,
    is_live,
    may_hold,
    opens,
    plan_for,
    plan_set,
    r,
    record,
    with_plan,
)


class View:
    """A state, with its fields by name."""

    def __init__(self, layout, state):
        self.layout, self.state = layout, state

    def __getitem__(self, field):
        return self.layout.get(self.state, field)

    def live_records(self):
        """(key, record) of the keys that are live."""
        records = ((key, self[record(key)]) for key in self.layout.keys)
        return [(key, value) for key, value in records if is_live(value)]

    def openers(self, digest):
        """The keys that a value opens."""
        return [key for key, value in self.live_records() if opens(value, digest)]

    def snapshots_of(self, key):
        """The plans of every version that a check of the key may go by: those from that in `r` on."""
        token = self[r(key)]
        return [plans for version, plans in self[HISTORY] if token is None or version >= token.version]

    def is_entitled(self, digest, stage):
        """Whether the value opens an enabled key, and by every version that may hold, a plan of it opens the stage."""
        return any(
            value.enabled and all(plan_for(value, plans, stage) for plans in self.snapshots_of(key))
            for key, value in self.live_records()
            if opens(value, digest)
        )


# In every state.


def a_value_opens_one_key_only(view):
    """Values open one key only."""
    return all(len(view.openers(digest)) <= 1 for digest in view.layout.digests)


def the_index_names_what_a_value_opens(view):
    """The index names the key that a value opens."""
    return all(
        view[claim(digest)] is not None and view[claim(digest)].key == key
        for digest in view.layout.digests
        for key in view.openers(digest)
    )


def a_key_has_one_plan_per_stage(view):
    """A live key has at most one plan per stage, by every snapshot of a version >= `r`."""
    stages = [
        "".join(stages for plan, stages in plans if plan in value.plans)
        for key, value in view.live_records()
        for plans in view.snapshots_of(key)
    ]
    return all(len(each) == len(set(each)) for each in stages)


def every_plan_of_a_key_exists(view):
    """Every plan of a live record exists, by every snapshot of a version >= `r`."""
    return all(
        value.plans <= set(dict(plans)) for key, value in view.live_records() for plans in view.snapshots_of(key)
    )


def sets_and_list_cover_the_records(view):
    """Cover: plan sets and list are never smaller than the records."""
    return all(
        key in view[LIST] and all(key in view[plan_set(plan)] for plan in value.plans)
        for key, value in view.live_records()
    )


OF_STATES = (
    a_value_opens_one_key_only,
    the_index_names_what_a_value_opens,
    a_key_has_one_plan_per_stage,
    every_plan_of_a_key_exists,
    sets_and_list_cover_the_records,
)


# Over every step.


def r_never_falls(before, after, request):
    """The version in `r` never falls within an epoch."""
    pairs = [(before[r(key)], after[r(key)]) for key in before.layout.keys]
    return all(new.version >= old.version for old, new in pairs if old and new)


def what_returned_is_in_the_record(before, after, request):
    """A step that takes effect makes its own change to what records and plans meant before; no other step does."""
    change, subject, *how = request.effect or ("", "")
    plans = with_plan(before[PLANS], subject, *how) if change == "plan" else before[PLANS]
    meant = {key: meaning(before[record(key)]) for key in before.layout.keys}
    if change not in {"", "plan"}:
        meant[subject] = changed(meant[subject], change, *how)
    return after[PLANS] == plans and all(meaning(after[record(key)]) == meant[key] for key in meant)


def meaning(value):
    """What a record promises: None if there is no key, else (enabled, plans, open digests)."""
    if not is_live(value):
        return None
    return value.enabled, value.plans, frozenset(digest for digest, until in value.digests if not until)


def changed(meant, change, *operands):
    """What a record means after a change took effect."""
    match change:
        case "made":
            return True, operands[0], frozenset({operands[1]})
        case "deleted":
            return None
        case "disabled":
            return False, *meant[1:]
        case "plans":
            return meant[0], meant[1] - operands[1] | operands[0], meant[2]
        case "opened by":
            return *meant[:2], frozenset(operands)
    raise AssertionError(change)


OVER_STEPS = (r_never_falls, what_returned_is_in_the_record)


# Of every outcome.


def an_outcome_is_true(outcome, took_effect):
    """An operation says that it is done exactly if it took effect."""
    return took_effect is None or took_effect == (outcome == DONE)


def a_check_is_admitted_by_what_holds(view, answer, digest, stage):
    """A check is admitted by the record, value, plan and snapshot that hold in this very step."""
    if answer.text != ADMITTED:
        return True
    value, token = view[record(answer.key)], view[r(answer.key)]
    plans = dict(view[HISTORY]).get(answer.version, ())
    return (
        opens(value, digest)
        and value.enabled
        and token is not None
        and answer.version >= token.version
        and answer.plan in value.plans
        and stage in dict(plans).get(answer.plan, "")
    )


def who_lives_throughout_is_not_denied(answer, was_entitled):
    """A key that lives throughout a check is never told unknown, disabled or no_plan."""
    return answer.text == ADMITTED or not was_entitled


def nothing_is_called_lost(answer):
    """No value is called lost (503): nothing is."""
    return answer.text != LOST


# Of what runs alone.


def it_ends(steps):
    """What nobody disturbs ends."""
    return steps < MOST_STEPS


MOST_STEPS = 100


def every_operation_works_alone(outcome, expected):
    """After a repair every operation that runs alone does what it must."""
    return outcome == expected


def all_is_in_agreement(view):
    """Sets and list are what the records say; a claim that a record names opens; no intent, draft, ended digest."""
    live = dict(view.live_records())
    records = {key: view[record(key)] for key in view.layout.keys}
    claims = {digest: view[claim(digest)] for digest in view.layout.digests}
    return (
        all(view[intent(key)] is None for key in view.layout.keys)
        and all(value is None or value.state != "draft" for value in records.values())
        and view[LIST] == set(live)
        and all(
            view[plan_set(plan)] == {key for key, value in live.items() if plan in value.plans}
            for plan in view.layout.plans
        )
        and all(not until for value in live.values() for _, until in value.digests)
        and all(
            opens(owner, digest) or owner is None or digest not in dict(owner.digests)  # it opens, or is dead (R6)
            for digest, owner in ((digest, records[each.key]) for digest, each in claims.items() if each)
        )
    )


OF_WHAT_RUNS_ALONE = (it_ends, every_operation_works_alone, all_is_in_agreement)


def expected_outcome(view, operation, arguments):
    """What an operation that runs alone must say where all is in agreement."""
    plans, live = view[PLANS], dict(view.live_records())
    key = arguments[0]
    match operation:
        case "create":
            _, digest, joins = arguments
            is_done = not view.openers(digest) and may_hold(joins, plans)
        case "change plans":
            _, joins, leaves = arguments
            mine = live[key].plans if key in live else frozenset()
            is_done = key in live and not joins & mine and leaves <= mine
            is_done = is_done and (not joins or may_hold(mine - leaves | joins, plans))
        case "rotate":
            is_done = key in live and not view.openers(arguments[1])
        case "disable" | "delete":
            is_done = key in live
        case "put plan":
            after = with_plan(plans, *arguments)
            is_done = all(may_hold(value.plans, after) for value in live.values())
        case "delete plan":
            is_done = key in dict(plans) and not any(key in value.plans for value in live.values())
        case "import row":
            _, digest, joins = arguments
            owners = view.openers(digest)
            if owners and live[owners[0]].plans == joins:
                return UNCHANGED
            left_alone = owners and not joins - live[owners[0]].plans
            is_done = left_alone or may_hold(joins, plans)
        case _:
            raise AssertionError(operation)
    return DONE if is_done else REFUSED
