"""Entries of a journal: units that a process admitted by itself, charged through a limiter's connection."""

from functools import partial
from itertools import count

from helpers.replica import METHOD, STAGE
from helpers.requests import reply_to

LIFE = "life---1"
_sequences = count(1)


def prepared_check(limiter, caller, stage=STAGE, method=METHOD):
    """The prepared check of a request, under the newest catalogue; a caller of None needs no key."""
    limiter.peek(caller, stage, method)
    checker = limiter._checker
    return checker.prepare_without_key(stage, method) if caller is None else checker.prepared(caller, stage, method)


def journal_charger(limiter, caller, stage=STAGE, method=METHOD):
    """What charges units of a request, a new entry unless it says otherwise, and returns the reply's status."""
    prepared = prepared_check(limiter, caller, stage, method)
    return partial(_charge, limiter, prepared)


def _charge(limiter, prepared, cost=1, spent_us=None, life=LIFE, sequence=None):
    namespace = limiter._namespace
    spent_us = namespace.wall_us() if spent_us is None else spent_us
    sequence = next(_sequences) if sequence is None else sequence
    status, _ = reply_to(limiter._store, prepared.to_journal_call(namespace, cost, spent_us, life, sequence))
    return status
