"""Bugs, each with the promise that it breaks."""

import asyncio
import time
from itertools import count
from math import inf

from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from seeded_bugs.bug_promises import (
    admission,
    another_life,
    ceiling,
    change_of_plan,
    clocks_days_apart,
    closed_keys,
    denial,
    denial_by_the_plan,
    disabling,
    expiries,
    expiring,
    expiry_of_keys,
    flapping,
    flood,
    late_reply,
    look_up_overtaken,
    lost_push,
    lost_reply,
    lost_reply_async,
    metering,
    new_key_not_pushed,
    new_key_pushed,
    newer_catalogue,
    older_version,
    peek,
    quota,
    record_overtaken,
    reset,
    retry_after,
    shown,
    skewed_clocks,
    stamp_put_back,
    steady_traffic,
    step_back,
    usage,
    went_back,
)
from seeded_bugs.bugs_in_lua import AT_ONCE, USUAL, USUAL_NOT_CHARGED, USUAL_ONE_TOO_FEW, USUAL_REFILL_LOST
from seeded_bugs.mutations import Lua, Python

from ratelimit import StoreTimeout
from ratelimit.admin import keys as key_admin
from ratelimit.admin import plans as plan_admin
from ratelimit.effects import TooManyLookUpsError
from ratelimit.engine.limits import CompiledLimits
from ratelimit.engine.protocol import DENIED
from ratelimit.limiter.checker import Checker
from ratelimit.local import denial_cache
from ratelimit.local.key_cache import KeyCache
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.redis_keys import RedisKeys
from ratelimit.store import error_mapping
from ratelimit.store.aio import batcher as batcher_module
from ratelimit.store.aio import exchanges, queues
from ratelimit.store.blocking.endpoint import Endpoint

_numbers = count()
_right_call, _right_write = Endpoint.call, batcher_module.CheckBatcher._write
_right_checks = exchanges.checks
_right_admits = CompiledLimits.admits_us


def _call_again(endpoint, packet, _started_s, deadline_s):
    try:
        return _right_call(endpoint, packet, time.monotonic(), deadline_s)
    except StoreTimeout:
        return _right_call(endpoint, packet, time.monotonic(), deadline_s)


def _write_again(batcher, packets, answered):
    def again(replies):
        if isinstance(replies[0], StoreTimeout):
            asyncio.get_running_loop().call_soon(_right_write, batcher, packets, answered)
        else:
            answered(replies)

    _right_write(batcher, packets, again)


def _answer_each_other(calls, on_left_out):
    return (yield from _right_checks(calls, on_left_out))[::-1]


def _call_as_redis_py_would(endpoint, packet, _started_s, _deadline_s):
    connection = endpoint._pool().get_connection()

    def once():
        connection.send_packed_command((packet,))
        try:
            return connection.read_response(disable_decoding=True)
        except ResponseError as error:
            return error

    try:
        return Retry(NoBackoff(), 10).call_with_retry(once, lambda _: connection.disconnect())
    except RedisError as error:
        raise error_mapping.after_sending(error) from error
    finally:
        endpoint._pool().release(connection)


def _keep_a_connection_whose_reply_is_late(endpoint, connection, error):
    endpoint._idle.append(connection)
    return error_mapping.after_sending(error)


def _forget_what_is_absent_alone(cache, _key_id):
    cache._changes += 1
    cache._absent.reset_after_fork()
    cache._absent._entries.clear()


def _forget_records_alone(cache, key_id):
    cache._changes += 1
    for value in cache._values_by_id.get(key_id or "", ()):
        cache._forget(value)


def _forget_what_is_there_alone(cache, key_id):
    _forget_what_is_absent_alone(cache, key_id)
    _forget_records_alone(cache, key_id)
    cache._changes -= 2


def _never_ask_again(cache, key, cached_key, **_):
    yield from ()
    return cached_key


def _remember_for_ever(cache, key, _now_us):
    return cache._absent.get(key) is not None


def _catch_up_with_nothing(*_):
    yield from ()


def _refuse_who_comes_last(queue):
    return TooManyLookUpsError(f"{queue.capacity} are waiting")


_right_init = batcher_module.CheckBatcher.__init__


def _one_queue(batcher, *arguments):
    _right_init(batcher, *arguments)
    batcher._queue_by_type = {}
    batcher._exchange = lambda _, calls: (
        exchanges.look_ups(calls) if isinstance(calls[0], list) else exchanges.checks(calls, lambda _: None)
    )


def _wait_rounded_down(call, numbers, cost):
    """Of buckets, by the units that are missing over those of a microsecond, without what is left over."""
    admits_us = _right_admits(call, numbers, cost)
    for at, rule in enumerate(call.numbers_of):
        if rule.is_bucket and 0 < admits_us[at] < inf:
            admits_us[at] = numbers[2 * at + 1] + (cost * rule.per - numbers[2 * at]) // rule.rate
    return admits_us


def _look_once(namespace, _max_age_us, _now_us):
    return namespace.loaded_us is None


CHARGED_AT_ONCE = """\
    if i > key_buckets and charge > 0 then
      redis.call('SET', KEYS[hash_keys + i - key_buckets], struct.pack('<ddd', new_per, b_level, b_last))
    end
    limits[n + 1], limits[n + 2] = b_level, b_last
    n = n + 2
"""

COMMIT_ALTHOUGH_DENIED = Lua(
    "commit although denied", "elseif hash_values and not denied then\n", "elseif hash_values then\n"
)
NOT_CHARGED = Lua("shared buckets not charged", "elseif charge > 0 or b_moved then", "elseif b_moved then")
ONE_TOO_FEW = Lua("the last unit refused", "if not (required <= left) then", "if not (required < left) then")
ROUNDED_DOWN = Python("retry_after rounded down", CompiledLimits, "admits_us", _wait_rounded_down)
MINTED = Lua("a change of plan rounds up", "level = tokens * per + quotient", "level = tokens * per + quotient + 1")
REFILL_LOST = Lua(
    "refill rounded to whole tokens",
    "return level + elapsed * rate, now, false",
    "return level + math.floor(elapsed * rate / per) * per, now, false",
)
ANSWERS_EXCHANGED = Python("answers exchanged among tasks", exchanges, "checks", _answer_each_other)

BUGS = (
    # 1. All or nothing
    (COMMIT_ALTHOUGH_DENIED, denial_by_the_plan),
    (
        Lua(
            "charge before judging",
            "    limits[n + 1], limits[n + 2] = b_level, b_last\n    n = n + 2\n",
            CHARGED_AT_ONCE,
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "version noted although denied",
            "new_plan and not denied and new_token then",
            "new_token then",
        ),
        denial,
    ),
    (
        Lua(
            "expiry moved although denied",
            "if has_more and new_plan and not denied and",
            "if denied and KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\n"
            "if has_more and new_plan and not denied and",
        ),
        expiries,
    ),
    (Lua("peek charges nothing, but writes", "  new_buckets = {}\nelseif hash_values", "elseif hash_values"), peek),
    (NOT_CHARGED, admission),
    (Lua("re-anchoring not written", "elseif bucket_moved or window_moved then", "elseif false then"), step_back),
    # 2. Exact
    (Lua("the last token refused", "required * new_per <= b_level", "required * new_per < b_level"), retry_after),
    (ROUNDED_DOWN, retry_after),
    (REFILL_LOST, steady_traffic),
    (ONE_TOO_FEW, quota),
    (Lua("windows compared by length alone", "stored == window", "days == window % WINDOW_BASE"), quota),
    (Lua("a small step back taken for the time", "return level, last, false", "return level, now, false"), flapping),
    (Lua("a large step back ignored", "if elapsed < -CLOCK_TOLERANCE_US then", "if false then"), went_back),
    (
        Lua(
            "count lost in a step back",
            "return window, window_end, true, true",
            "return window, window_end, false, true",
        ),
        went_back,
    ),
    (MINTED, change_of_plan),
    (Lua("closed day lost", "if day > 0 and not is_identity then", "if false then"), metering),
    # 3. One clock
    (Python("the replica's clock", Namespace, "script_us", lambda _: time.time_ns() // 1000), skewed_clocks),
    (
        Lua(
            "the replica's windows",
            "if not window then return { WINDOWS_PAST, now } end",
            "if not window then window, window_end = first_day * 64 + second_day - first_day, second_day end",
        ),
        clocks_days_apart,
    ),
    (Lua("whole seconds", "now = time[1] * 1000000 + time[2]", "now = time[1] * 1000000"), skewed_clocks),
    (
        Lua("keys never expire", "if valid_until > 0 and now >= valid_until and not is_identity then", "if false then"),
        expiry_of_keys,
    ),
    # 4. Never double
    (Python("sent again", Endpoint, "call", _call_again), lost_reply),
    (Python("sent again, asyncio", batcher_module.CheckBatcher, "_write", _write_again), lost_reply_async),
    (
        Python("sent with retries", Endpoint, "call", _call_as_redis_py_would),
        reset,
    ),
    (
        Python("unknown outcome reported as not sent", error_mapping, "after_sending", error_mapping.before_sending),
        lost_reply,
    ),
    (
        Python(
            "late reply left on its connection",
            Endpoint,
            "_failed",
            _keep_a_connection_whose_reply_is_late,
        ),
        late_reply,
    ),
    # 5. No lost revocation
    (
        Lua(
            "stamps not compared",
            "if not stored_token or string.sub(stored_token, 19) ~= string.sub(version_token, 19) then",
            "if not stored_token then",
        ),
        disabling,
    ),
    (
        Lua(
            "versions not compared",
            "string.sub(stored_token, 9, 18) > string.sub(version_token, 9, 18)",
            "false",
        ),
        older_version,
    ),
    (Lua("version not noted", "if new_plan and not denied and new_token then", "if false then"), older_version),
    (
        Lua("epochs not compared", "string.sub(stored_token, 1, 8) ~= string.sub(version_token, 1, 8)", "false"),
        another_life,
    ),
    (Python("the same stamp again", key_admin, "generated_token", lambda: "samesame"), expiring),
    (Python("never looked again", Namespace, "is_stale", _look_once), lost_push),
    (Python("a push drops no record", KeyCache, "forget_changed", _forget_what_is_absent_alone), stamp_put_back),
    (
        Python("a record overtaken by a push kept", KeyCache, "forget_changed", _forget_what_is_there_alone),
        record_overtaken,
    ),
    (Python("closed keys refused from memory", KeyCache, "confirm", _never_ask_again), closed_keys),
    (Python("decided by an older catalogue", KeyCache, "_catch_up", _catch_up_with_nothing), newer_catalogue),
    # Values that no key has
    (Python("a push leaves them absent", KeyCache, "forget_changed", _forget_records_alone), new_key_pushed),
    (Python("absent for ever", KeyCache, "is_absent", _remember_for_ever), new_key_not_pushed),
    (
        Python("absence overtaken by a push kept", KeyCache, "forget_changed", _forget_what_is_there_alone),
        look_up_overtaken,
    ),
    (Python("who comes last refused", queues.LookUpQueue, "overflow", _refuse_who_comes_last), flood),
    (Python("one queue for all", batcher_module.CheckBatcher, "__init__", _one_queue), flood),
    # Administrators at the same moment
    (Python("keys not counted", key_admin, "check_key_ceiling", lambda *_: None), ceiling),
    (Python("count of keys not guarded", key_admin, "guard_key_count", lambda *_: None), ceiling),
    (Python("keys that left forgotten", RedisKeys, "plan_past", lambda *_: f"lost:{next(_numbers)}"), usage),
    (Python("another plan than was shown", plan_admin, "check_precondition", lambda *_: None), shown),
    *USUAL,
    *AT_ONCE,
)

FOUND_BY_THE_MACHINE = (
    NOT_CHARGED,
    ONE_TOO_FEW,
    ROUNDED_DOWN,
    MINTED,
    REFILL_LOST,
    USUAL_NOT_CHARGED,
    USUAL_ONE_TOO_FEW,
    USUAL_REFILL_LOST,
    ANSWERS_EXCHANGED,
    Python("admitted replies not kept", denial_cache, "_JUDGED", frozenset({DENIED})),
    Python("pushed changes are ignored", Checker, "_forget_changed", lambda *_: None),
)
