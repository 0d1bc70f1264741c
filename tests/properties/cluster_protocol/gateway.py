"""A gateway's check of a value for a stage: reads D, then record and `r`; its snapshot of the catalogue may be old."""

from typing import NamedTuple

from properties.cluster_protocol.operations import Again, Then
from properties.cluster_protocol.state import PLANS, VERSION, claim, opens, plan_for, r, read, record

ADMITTED, UNKNOWN, DISABLED, NO_PLAN, LOST = "admitted", "unknown", "disabled", "no_plan", "lost"
"""Answers. LOST is a 503: data that Redis has lost."""


class Answer(NamedTuple):
    """What a check says: of which key, by which plan, by a snapshot of which version; and the next check, if any."""

    text: str
    key: str | None = None
    plan: str | None = None
    version: int | None = None
    following: Then | None = None


def check(me, digest, stage, snapshot, known=None, left=0, is_second_look=False):  # noqa: C901 - one path
    """Check once, and `left` times more with what is known by then.

    `snapshot` is (version, plans), `known` a cached (key, record). A cached record alone denies nothing: only the
    script at K may follow from it, which compares the stamp and the version.
    """

    def answer(text, key=None, plan=None, known=None):
        following = Then("check", (digest, stage, snapshot, known, left - 1)) if left else None
        return Answer(text, key, plan, snapshot[0], following)

    def again(*, is_second_look=False):
        return Again((digest, stage, snapshot, None, left, is_second_look))

    if known is not None:
        key, stored = known
        plan = plan_for(stored, snapshot[1], stage)
        if plan is None:
            return again()
    else:
        (claimed,) = (yield read("check 1 D", claim(digest))).values
        if claimed is None:
            return answer(UNKNOWN)
        key = claimed.key
        (stored,) = (yield read("check 1 K", record(key))).values
        if stored is None:  # looked at twice, D first each time
            return answer(LOST) if is_second_look else again(is_second_look=True)
        if not opens(stored, digest):
            return answer(UNKNOWN)
        (token,) = (yield read("check 1 r", r(key))).values
        if token is None or token.stamp != stored.stamp:
            return again()
        if not stored.enabled:
            return answer(DISABLED)
        if token.version > snapshot[0]:
            snapshot = (yield read("check 1 C", VERSION, PLANS)).values
        plan = plan_for(stored, snapshot[1], stage)
        if plan is None:
            return answer(NO_PLAN)

    (token,) = (yield read("check 2", r(key))).values  # the script at K admits by what it reads in this very step
    if token is None or token.stamp != stored.stamp:
        return again()
    if token.version > snapshot[0]:  # "catalogue behind"
        snapshot = (yield read("check 1 C", VERSION, PLANS)).values
        return again()
    return answer(ADMITTED, key, plan, (key, stored))
