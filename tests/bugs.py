"""Bugs, each with the promise that it breaks: a text of the Lua sources replaced in memory, or a Python attribute."""

import time
from dataclasses import dataclass
from itertools import count

import promises
import promises_of_administrators as administrators
import promises_of_connections as connections
import promises_of_replicas as replicas
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from ratelimit import StoreTimeout
from ratelimit.admin import keys as key_admin
from ratelimit.admin import plans as plan_admin
from ratelimit.core import scripts
from ratelimit.core.names import Names
from ratelimit.core.state import Namespace
from ratelimit.store import faults, gather, sync


@dataclass(frozen=True)
class Lua:
    """A bug in check.lua or what it includes: `right` becomes `wrong`."""

    name: str
    right: str
    wrong: str

    def put_in(self, monkeypatch):
        expanded = scripts.expanded
        # No AssertionError, and not only once the promise runs: a bug that is not there must not pass for one found.
        if expanded("check").count(self.right) != 1:
            raise ValueError(f"{self.right!r} is not there, or not once: adapt the seeded bug")

        def mutated(name):
            source = expanded(name)
            return source.replace(self.right, self.wrong) if name == "check" else source

        monkeypatch.setattr(scripts, "expanded", mutated)


@dataclass(frozen=True)
class Python:
    """A bug in Python: `wrong` replaces the attribute `name` of `owner`."""

    name: str
    owner: object
    attribute: str
    wrong: object

    def put_in(self, monkeypatch):
        monkeypatch.setattr(self.owner, self.attribute, self.wrong)


_numbers = count()
_right_send, _right_async_send = sync.Store._send, gather.Gatherer._send


def _send_again(store, commands):
    try:
        return _right_send(store, commands)
    except StoreTimeout:
        return _right_send(store, commands)


async def _send_again_async(gatherer, commands):
    sent = list(commands)
    try:
        return await _right_async_send(gatherer, sent)
    except StoreTimeout:
        return await _right_async_send(gatherer, sent)


async def _answer_each_other(gatherer, commands):
    return (await _right_async_send(gatherer, commands))[::-1]


def _send_as_redis_py_would(store, commands):
    connection = store._pool.get_connection()

    def once():
        connection.send_packed_command(connection.pack_commands(commands))
        return [connection.read_response() for _ in commands]

    try:
        return Retry(NoBackoff(), 10).call_with_retry(once, lambda _: connection.disconnect())
    except RedisError as error:
        raise faults.after_sending(error) from error
    finally:
        store._pool.release(connection)


def _keep_a_connection_whose_reply_is_late(store, commands):
    connection = store._pool.get_connection()
    try:
        connection.send_packed_command(connection.pack_commands(commands))
        return [connection.read_response(disconnect_on_error=False) for _ in commands]
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


def ceiling(server, _clock):
    administrators.a_ceiling_holds_between_administrators(server)


def shown(server, _clock):
    administrators.what_was_shown_is_what_is_replaced(server)


def usage(server, clock):
    administrators.the_usage_of_a_plan_is_all_that_it_admitted(server, clock)


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
    (Lua("version noted although denied", "if not refused and new_identity then", "if new_identity then"), denial),
    (
        Lua(
            "expiry moved although denied",
            "if has_alerts and not refused then",
            "if refused and KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\nif has_alerts and not refused then",
        ),
        expiries,
    ),
    (Lua("peek charges nothing, but writes", "  return reply\nend\nlocal plan\n", "end\nlocal plan\n"), peek),
    (NOT_CHARGED, admission),
    (Lua("re-anchoring not written", "elseif bucket_moved or window_moved then", "elseif false then"), step_back),
    # 2. Exact
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
    (Python("sent again", sync.Store, "_send", _send_again), lost_reply),
    (Python("sent again, asyncio", gather.Gatherer, "_send", _send_again_async), lost_reply_async),
    (
        Python("sent with retries", sync.Store, "_send", _send_as_redis_py_would),
        reset,
    ),
    (Python("unknown told as not sent", faults, "after_sending", faults.before_sending), lost_reply),
    (
        Python("late reply left on its connection", sync.Store, "_send", _keep_a_connection_whose_reply_is_late),
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
    (Lua("version not noted", "if not refused and new_identity then", "if false then"), older_version),
    (Lua("lives not told apart", "elseif not catalog_is_fresh then", "elseif false then"), another_life),
    (Python("the same stamp again", key_admin, "generated_token", lambda: "samesame"), expiring),
    (Python("never looked again", Namespace, "needs_look", _look_once), lost_push),
    # Administrators at the same moment
    (Python("keys not counted", key_admin, "refuse_keys_beyond", lambda *_: None), ceiling),
    (Python("count of keys not guarded", key_admin, "take_room", lambda *_: None), ceiling),
    (Python("keys that left forgotten", Names, "plan_past", lambda *_: f"lost:{next(_numbers)}"), usage),
    (Python("another plan than was shown", plan_admin, "refuse_other", lambda *_: None), shown),
)

FOUND_BY_THE_MACHINE = (
    NOT_CHARGED,
    ONE_TOO_FEW,
    ROUNDED_DOWN,
    MINTED,
    REFILL_LOST,
    ANSWERS_EXCHANGED,
)
