"""Bugs, each with the promise that it breaks: a text of the Lua sources replaced in memory, or a Python attribute."""

import time
from dataclasses import dataclass

import promises
import promises_of_batches as batches
import promises_of_connections as connections
import promises_of_replicas as replicas
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ratelimit import StoreTimeout
from ratelimit.admin import keys as key_admin
from ratelimit.core import scripts
from ratelimit.core.state import Namespace
from ratelimit.store import faults, gather, sync


@dataclass(frozen=True)
class Lua:
    """A bug in a script or what it includes: `right` becomes `wrong`."""

    name: str
    right: str
    wrong: str
    script: str = "check"

    def put_in(self, monkeypatch):
        expanded = scripts.expanded
        # No AssertionError, and not only once the promise runs: a bug that is not there must not pass for one found.
        if expanded(self.script).count(self.right) != 1:
            raise ValueError(f"{self.right!r} is not there, or not once: adapt the seeded bug")

        def mutated(name):
            source = expanded(name)
            return source.replace(self.right, self.wrong) if name == self.script else source

        monkeypatch.setattr(scripts, "expanded", mutated)


def Many(name, right, wrong):  # noqa: N802 - reads as `Lua` does
    """A bug in check_many.lua."""
    return Lua(f"at once: {name}", right, wrong, "check_many")


@dataclass(frozen=True)
class Python:
    """A bug in Python: `wrong` replaces the attribute `name` of `owner`."""

    name: str
    owner: object
    attribute: str
    wrong: object

    def put_in(self, monkeypatch):
        monkeypatch.setattr(self.owner, self.attribute, self.wrong)


_right_ask, _right_async_send = sync.Store._ask, gather.Gatherer._send


def _ask_again(store, packet, replies):
    try:
        return _right_ask(store, packet, replies)
    except StoreTimeout:
        return _right_ask(store, packet, replies)


async def _send_again_async(gatherer, packets):
    try:
        return await _right_async_send(gatherer, packets)
    except StoreTimeout:
        return await _right_async_send(gatherer, packets)


async def _answer_each_other(gatherer, packets):
    return (await _right_async_send(gatherer, packets))[::-1]


def _replies(connection, replies, **how):
    found = []
    for _ in range(replies):
        try:
            found.append(connection.read_response(disable_decoding=True, **how))
        except ResponseError as error:
            found.append(error)
    return found


def _ask_as_redis_py_would(store, packet, replies):
    connection = store._pool.get_connection()

    def once():
        connection.send_packed_command((packet,))
        return _replies(connection, replies)

    try:
        return Retry(NoBackoff(), 10).call_with_retry(once, lambda _: connection.disconnect())
    except RedisError as error:
        raise faults.after_sending(error) from error
    finally:
        store._pool.release(connection)


def _keep_a_connection_whose_reply_is_late(store, packet, replies):
    connection = store._pool.get_connection()
    try:
        connection.send_packed_command((packet,))
        return _replies(connection, replies, disconnect_on_error=False)
    except (RedisError, OSError) as error:
        raise faults.after_sending(error) from error
    finally:
        store._pool.release(connection)


def _look_once(namespace, _max_age):
    return namespace._loaded_at is None


def denial(server, clock):
    promises.a_denial_writes_nothing(server, clock, "quota")


def denial_by_the_plan(server, clock):
    promises.a_denial_writes_nothing(server, clock, "plan")


def denial_by_the_stage(server, clock):
    promises.a_denial_writes_nothing(server, clock, "stage")


def renewal(server, _clock):
    batches.an_expiry_outlasts_the_way_to_full(server)


def at_once(server, clock):
    batches.checks_at_once_are_charged_one_by_one(server, clock)


def methods_at_once(server, clock):
    batches.methods_of_one_key_count_for_one_quota(server, clock)


def overtaking(server, clock):
    batches.nobody_is_overtaken(server, clock)


def obeying_at_once(server, clock):
    batches.checks_at_once_obey(server, clock)


def expiries(server, _clock):
    promises.a_denial_leaves_expiries(server, "quota")


def peek(server, clock):
    promises.a_peek_writes_nothing(server, clock)


def admission(server, clock):
    promises.an_admission_charges_every_limit(server, clock)


def step_back(server, clock):
    promises.a_large_step_back_is_all_that_a_denial_writes(server, clock, "plan")


def retry_after(server, clock):
    promises.retry_after_is_exact(server, clock, "3/2", 10, 7)


def steady_traffic(server, clock):
    promises.steady_traffic_loses_nothing(server, clock, "90/60", 333_333, 100)


def quota(server, clock):
    promises.a_quota_turns_at_the_microsecond(server, clock, *promises.PERIODS[0])


def period(server, clock):
    promises.another_period_is_another_count(server, clock)


def flapping(server, clock):
    promises.a_clock_that_flaps_mints_nothing(server, clock)


def went_back(server, clock):
    promises.a_clock_that_went_back_locks_nobody_out(server, clock)


def change_of_plan(server, clock):
    promises.a_change_of_plan_mints_nothing(server, clock)


def metering(server, clock):
    promises.every_unit_is_metered(server, clock)


def skewed_clocks(server, _clock):
    replicas.skewed_replicas_decide_alike(server, (-600, 0, 600))


def clocks_days_apart(server, _clock):
    replicas.skewed_replicas_decide_alike(server, (-40 * 86_400, 0, 40 * 86_400))


def expiry_of_keys(server, _clock):
    replicas.a_key_expires_by_the_servers_clock(server)


def lost_reply(server, _clock):
    connections.a_check_is_carried_out_once(server, "swallow", "from_url")


def lost_reply_async(server, _clock):
    connections.a_check_is_carried_out_once(server, "reset", "async")


def reset(server, _clock):
    connections.a_check_is_carried_out_once(server, "reset", "retries")


def late_reply(server, _clock):
    connections.a_check_is_carried_out_once(server, "delay", "from_url")


def disabling(server, clock):
    replicas.the_next_check_obeys(server, clock, "disable")


def expiring(server, clock):
    replicas.the_next_check_obeys(server, clock, "expire")


def older_version(server, clock):
    replicas.an_older_version_never_comes_back(server, clock, "plan")


def lost_push(server, clock):
    replicas.a_lost_push_is_caught_up(server, clock)


def another_life(server, clock):
    replicas.another_life_of_the_catalogue_is_noticed(server, clock)


CHARGED_AT_ONCE = """\
    if i > own_buckets and charge > 0 then
      redis.call('SET', KEYS[own_keys + i - own_buckets], struct.pack('<ddd', new_per, b_level, b_last))
    end
    reply[n + 1], reply[n + 2] = remaining, reset
"""

COMMIT_ALTHOUGH_DENIED = Lua("commit although denied", "if own and not refused then\n", "if own then\n")
NOT_CHARGED = Lua("shared buckets not charged", "elseif charge > 0 or b_moved then", "elseif b_moved then")
ONE_TOO_FEW = Lua("the last unit refused", "if asked > left then", "if asked >= left then")
ROUNDED_DOWN = Lua(
    "retry_after rounded down",
    "wait, refused = b_last - now + (missing + -missing % rate) / rate, true",
    "wait, refused = b_last - now + (missing - missing % rate) / rate, true",
)
MINTED = Lua("a change of plan rounds up", "level = tokens * per + quotient", "level = tokens * per + quotient + 1")
REFILL_LOST = Lua(
    "refill rounded to whole tokens",
    "return level + elapsed * rate, now, false",
    "return level + math.floor(elapsed * rate / per) * per, now, false",
)
USUAL_NOT_CHARGED = Lua(
    "usual: further buckets not charged",
    "local b_level = further[5 * i - 1] - cost * new_per",
    "local b_level = further[5 * i - 1]",
)
USUAL_ONE_TOO_FEW = Lua(
    "usual: the last unit refused", "local fits = quota < 0 or cost <= left", "local fits = quota < 0 or cost < left"
)
USUAL_ROUNDED_DOWN = Lua(
    "usual: retry_after rounded down", "(short + -short % rate) / rate", "(short - short % rate) / rate"
)
USUAL_REFILL_LOST = Lua(
    "usual: refill rounded to whole tokens",
    "level = level + (now - last) * plan_rate\n",
    "level = level + math.floor((now - last) * plan_rate / plan_per) * plan_per\n",
)
ANSWERS_EXCHANGED = Python("answers exchanged among tasks", gather.Gatherer, "_send", _answer_each_other)

BUGS = (
    # 1. All or nothing
    (COMMIT_ALTHOUGH_DENIED, denial_by_the_plan),
    (
        Lua(
            "charge before judging",
            "    reply[n + 1], reply[n + 2] = remaining, reset\n    n = n + 2\n",
            CHARGED_AT_ONCE + "    n = n + 2\n",
        ),
        denial_by_the_plan,
    ),
    (Lua("version noted although denied", "plan and not refused and new_identity then", "new_identity then"), denial),
    (
        Lua(
            "expiry moved although denied",
            "if has_alerts and not refused and cost > 0 then",
            "if refused and KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\n"
            "if has_alerts and not refused and cost > 0 then",
        ),
        expiries,
    ),
    (Lua("peek charges nothing, but writes", "  packed = {}\nelseif own", "elseif own"), peek),
    (NOT_CHARGED, admission),
    (Lua("re-anchoring not written", "elseif bucket_moved or window_moved then", "elseif false then"), step_back),
    (
        Lua(
            "usual: charge before judging",
            "      local at = 5 * i\n",
            "      if i > own_buckets then redis.call('SET', KEYS[own_keys + i - own_buckets], "
            "struct.pack('<ddd', new_per, b_level - cost * new_per, now)) end\n      local at = 5 * i\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: a denial counts",
            "  if refused then return reply end\n",
            "  if refused then\n    redis.call('HSET', KEYS[1], ARGV[2], struct.pack('<dddddddd', "
            "struct.unpack('<ddddddd', own[2]), now))\n    return reply\n  end\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: expiry moved although denied",
            "  if refused then return reply end\n",
            "  if refused then\n    if KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\n"
            "    return reply\n  end\n",
        ),
        expiries,
    ),
    (Lua("usual: a peek is a charge of nothing", "#own[2] == 64 and cost > 0 then", "#own[2] == 64 then"), peek),
    (USUAL_NOT_CHARGED, admission),
    (
        Lua("usual: only one bucket denies", "if cost * new_per > b_level then fits = false end\n", "\n"),
        denial_by_the_stage,
    ),
    # 2. Exact
    (Lua("usual: the last token refused", "cost * plan_per > level", "cost * plan_per >= level"), retry_after),
    (USUAL_ROUNDED_DOWN, retry_after),
    (USUAL_REFILL_LOST, steady_traffic),
    (USUAL_ONE_TOO_FEW, quota),
    (Lua("usual: another window ignored", "window == from * 64 + to - from and now >= from", "now >= from"), period),
    (Lua("usual: a newer day ignored", "today >= 0 and today < DAY_US", "today >= 0"), metering),
    (
        Lua(
            "usual: a step back ignored",
            "if per ~= plan_per or now < last or plan_rate",
            "if per ~= plan_per or plan_rate",
        ),
        went_back,
    ),
    (
        Lua("usual: a changed plan ignored", "if per ~= plan_per or now < last", "if now < last"),
        change_of_plan,
    ),
    (
        Lua("usual: more than full", "if level > plan_burst * plan_per then level = plan_burst * plan_per end\n", "\n"),
        steady_traffic,
    ),
    (
        Lua(
            "usual: expiries not renewed", "if further[5 * i] < now - now % KEPT_US then", "if further[5 * i] == 0 then"
        ),
        renewal,
    ),
    (
        Lua(
            "usual: expiries renewed for a full bucket",
            "fill_us[i] = further[5 * i - 4] * new_per / rate end",
            "fill_us[i] = 0 end",
        ),
        renewal,
    ),
    (Lua("expiries end before a bucket is full", "(2 * KEPT_US + fill_us[i]) / 1000", "2 * KEPT_US / 1000"), renewal),
    (Lua("the last token refused", "asked * new_per > b_level then", "asked * new_per >= b_level then"), retry_after),
    (ROUNDED_DOWN, retry_after),
    (REFILL_LOST, steady_traffic),
    (ONE_TOO_FEW, quota),
    (Lua("windows told apart by length alone", "started == from and days == to - from", "days == to - from"), quota),
    (Lua("a small step back taken for the time", "return level, last, false", "return level, now, false"), flapping),
    (Lua("a large step back ignored", "if elapsed < -2000000 then", "if false then"), went_back),
    (Lua("count lost in a step back", "return from, to, true, true", "return from, to, false, true"), went_back),
    (MINTED, change_of_plan),
    (Lua("closed day lost", "if day > 0 then", "if false then"), metering),
    # 1, 2 and 5, for checks in one call
    (
        Many(
            "shared state not carried",
            "shared[place], charged_at[place] = packed[b], given_us",
            "charged_at[place] = given_us",
        ),
        at_once,
    ),
    (
        Many(
            "shared state not written", "for place, given in pairs(charged_at) do", "for place, given in pairs({}) do"
        ),
        at_once,
    ),
    (Many("the key's state not carried", "own[2], changed[key] = plan, true", "changed[key] = true"), at_once),
    (Many("the key's state not written", "for key in pairs(changed) do write(key) end", ""), at_once),
    (Many("denied, but charged", "if reply and not refused then", "if reply then"), at_once),
    (
        Many("buckets of methods not carried", "for b = 1, own_buckets do own[b + 2] = packed[b] end", ""),
        methods_at_once,
    ),
    (
        Many("another question, and what is not yet written is lost", "if changed[key] then write(key) end", ""),
        methods_at_once,
    ),
    (
        Many("one question taken for another", "same = same and ARGV[before + i] == ARGV[at + i]", "same = same"),
        methods_at_once,
    ),
    (Many("left out, but overtaken", "in_turn = in_turn and not left_out[KEYS[k]]", "in_turn = in_turn"), overtaking),
    (Many("only the key's own checks wait", "left_out[KEYS[k]] = true", "left_out[KEYS[key_at]] = true"), overtaking),
    (Many("identities not compared", "find(request, own[1], 89, true) == 89", "true"), obeying_at_once),
    (Many("keys never expire", "(valid_until == 0 or now < valid_until)", "true"), obeying_at_once),
    (Many("set without an expiry", "elseif expiry[place] then", "elseif false then"), renewal),
    (
        Many("expiries end before a bucket is full", "(2 * KEPT_US + expiry[place]) / 1000", "2 * KEPT_US / 1000"),
        renewal,
    ),
    (
        Many(
            "an expiry with every charge", "expiry[place] = expiry[place] or fill_us[b]", "expiry[place] = 1000000000"
        ),
        renewal,
    ),
    # 3. One clock
    (Python("the replica's clock", Namespace, "script_us", lambda _: time.time_ns() // 1000), skewed_clocks),
    (
        Lua(
            "the replica's windows",
            "if not from then return { WINDOWS_PAST, now } end",
            "if not from then from, to = first_day, second_day end",
        ),
        clocks_days_apart,
    ),
    (Lua("whole seconds", "now = time[1] * 1000000 + time[2]", "now = time[1] * 1000000"), skewed_clocks),
    (Lua("keys never expire", "if valid_until > 0 and now >= valid_until then", "if false then"), expiry_of_keys),
    # 4. Never double
    (Python("sent again", sync.Store, "_ask", _ask_again), lost_reply),
    (Python("sent again, asyncio", gather.Gatherer, "_send", _send_again_async), lost_reply_async),
    (
        Python("sent with retries", sync.Store, "_ask", _ask_as_redis_py_would),
        reset,
    ),
    (Python("unknown told as not sent", faults, "after_sending", faults.before_sending), lost_reply),
    (
        Python("late reply left on its connection", sync.Store, "_ask", _keep_a_connection_whose_reply_is_late),
        late_reply,
    ),
    # 5. No lost revocation
    (
        Lua(
            "stamps not compared",
            "if not found or string.sub(found, 19) ~= string.sub(identity, 19) then",
            "if not found then",
        ),
        disabling,
    ),
    (
        Lua("versions not compared", "if string.sub(found, 9, 18) > string.sub(identity, 9, 18) then", "if false then"),
        older_version,
    ),
    (Lua("version not noted", "if plan and not refused and new_identity then", "if false then"), older_version),
    (Lua("lives not told apart", "elseif not catalog_is_fresh then", "elseif false then"), another_life),
    (Python("the same stamp again", key_admin, "generated_token", lambda: "samesame"), expiring),
    (Python("never looked again", Namespace, "needs_look", _look_once), lost_push),
)

FOUND_BY_THE_MACHINE = (
    NOT_CHARGED,
    ONE_TOO_FEW,
    ROUNDED_DOWN,
    MINTED,
    REFILL_LOST,
    USUAL_NOT_CHARGED,
    USUAL_ONE_TOO_FEW,
    USUAL_ROUNDED_DOWN,
    USUAL_REFILL_LOST,
    ANSWERS_EXCHANGED,
)
