"""What a process remembers of keys, and what ends that: of replicas that hear the change messages they are given."""

import asyncio
from contextlib import contextmanager

from helpers.replica import FOREVER, METHOD, STAGE, replica

from ratelimit import AsyncLimiter, Catalog, Throttle, UsagePlan

GOLD = UsagePlan("gold", Throttle("1/1000", 50), None, [STAGE])
VALUE = "a-value-that-no-key-has-yet"
ELSEWHERE = "made/up"


@contextmanager
def administrator(backend, clock):
    """A catalogue of another process, with the plan; what it changes is not heard."""
    with backend.client() as client:
        catalog = Catalog(client, clock=clock)
        catalog.put_plan(GOLD)
        yield catalog


@contextmanager
def asking(limiter, after=lambda: None):
    """Yield a list of what is read meanwhile, a list of commands each; `after` is called once a reply is there."""
    reads, right = [], limiter._store._execute

    def answer(request, *wait):
        reply = right(request, *wait)
        if isinstance(request, list):
            reads.append([tuple(map(str, command)) for command in request])
        after()
        return reply

    limiter._store._execute = answer
    try:
        yield reads
    finally:
        del limiter._store._execute


def ask(limiter, value, stage=STAGE):
    """The status of a check, with what is wrong with the key."""
    decision = limiter.check(value, stage, METHOD)
    return decision.status, decision.detail


UNKNOWN, DISABLED, NO_PLAN = ((403, detail) for detail in ("unknown", "disabled", "no_plan_for_stage"))
ADMITTED = (200, None)


def a_new_key_is_known_by_its_push(backend, clock, tell=lambda key: f"key:{key.id}"):
    """Asked about before it was made, a value is admitted as soon as its replica hears of the key, without waiting."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        assert [ask(limiter, VALUE) for _ in range(2)] == [UNKNOWN] * 2
        key = catalog.create_key(value=VALUE, plans=["gold"])
        limiter._namespace.on_change_message(tell(key))
        assert ask(limiter, VALUE) == ADMITTED


def a_new_key_is_known_within_a_second(backend, clock):
    """Without the push it is, one second after the last look-up was asked for; and until then nothing is read."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        assert ask(limiter, VALUE) == UNKNOWN
        catalog.create_key(value=VALUE, plans=["gold"])
        clock.advance_us(999_999)
        with asking(limiter) as reads:
            assert ask(limiter, VALUE) == UNKNOWN
        assert reads == []
        clock.advance_us(1)
        assert ask(limiter, VALUE) == ADMITTED


def a_look_up_that_a_push_overtook_is_not_kept(backend, clock):
    """The value was looked up before its key was made, and the reply comes after the push: only this answer is old."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        ask(limiter, "x" * 30)  # the catalogue is loaded
        made = []

        def make():
            if not made:
                made.append(catalog.create_key(value=VALUE, plans=["gold"]))
                limiter._namespace.on_change_message(f"key:{made[0].id}")

        with asking(limiter, make):
            assert ask(limiter, VALUE) == UNKNOWN
        assert ask(limiter, VALUE) == ADMITTED


def what_is_closed_is_never_remembered(backend, clock):
    """A key that is enabled, or joins a plan, is admitted by the next check, though its replica heard nothing."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        disabled = catalog.create_key(plans=["gold"], enabled=False)
        without = catalog.create_key()
        assert [ask(limiter, disabled.value) for _ in range(2)] == [DISABLED] * 2
        assert [ask(limiter, without.value) for _ in range(2)] == [NO_PLAN] * 2
        catalog.update_key(disabled.id, enabled=True)
        catalog.add_key_to_plan(without.id, "gold")
        assert ask(limiter, disabled.value) == ADMITTED
        assert ask(limiter, without.value) == ADMITTED


def a_stamp_put_back_opens_nothing(backend, clock, plan=GOLD):
    """After the push of a disabled key its record is read anew, whatever somebody wrote into the key's hash."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        catalog.put_plan(plan)
        key = catalog.create_key(plans=["gold"])
        assert [ask(limiter, key.value) for _ in range(2)] == [ADMITTED] * 2
        with backend.client() as thief:
            stamp = thief.hget(limiter._namespace.names.key_hash(key.id), "r")
            catalog.update_key(key.id, enabled=False)
            limiter._namespace.on_change_message(f"key:{key.id}")
            thief.hset(limiter._namespace.names.key_hash(key.id), "r", stamp)
        assert [ask(limiter, key.value) for _ in range(2)] == [DISABLED] * 2


def a_record_that_a_push_overtook_is_not_kept(backend, clock):
    """As above, where the record was on its way when the push came: it is used for this request, and no other."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        key = catalog.create_key(plans=["gold"])
        ask(limiter, "x" * 30)
        names, pushed = limiter._namespace.names, []
        with backend.client() as thief:
            stamp = thief.hget(names.key_hash(key.id), "r")

            def disable():
                if len(reads) == 2 and not pushed:  # the record has been read
                    pushed.append(catalog.update_key(key.id, enabled=False))
                    limiter._namespace.on_change_message(f"key:{key.id}")
                    thief.hset(names.key_hash(key.id), "r", stamp)

            with asking(limiter, disable) as reads:
                assert ask(limiter, key.value) == ADMITTED
        assert ask(limiter, key.value) == DISABLED


def a_newer_catalogue_is_loaded_before_a_refusal(backend, clock):
    """A key that another replica charged under a newer catalogue is judged by it, though nothing was pushed."""
    with (
        administrator(backend, clock) as catalog,
        replica(backend, clock=clock) as behind,
        replica(backend, clock=clock) as ahead,
    ):
        key = catalog.create_key(plans=["gold"])
        assert [ask(behind, key.value, ELSEWHERE) for _ in range(2)] == [NO_PLAN] * 2
        catalog.put_plan(UsagePlan("gold", GOLD.throttle, None, [STAGE, ELSEWHERE]))
        assert ask(ahead, key.value, ELSEWHERE) == ADMITTED
        assert ask(behind, key.value, ELSEWHERE) == ADMITTED


def a_flood_refuses_no_key_that_was_met(server):
    """Of 12,000 unknown values at once some are told 503; keys that were met, and one met only now, are admitted."""
    with administrator(server, None) as catalog:
        *met, new = (catalog.create_key(plans=["gold"]).value for _ in range(21))

    async def run():
        async with AsyncLimiter.from_url(server.url, deadline=60, max_age=FOREVER) as limiter:
            limiter._namespace.before_refresh = lambda: None  # no listener, whose start makes a check look once more
            await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in met))
            flood = [asyncio.ensure_future(limiter.check(f"{number:030}", STAGE, METHOD)) for number in range(12_000)]
            others = await asyncio.gather(*(limiter.check(key, STAGE, METHOD) for key in (*met, new)))
            return [decision.status for decision in (*others, *await asyncio.gather(*flood))]

    statuses = asyncio.run(run())
    assert statuses[:21] == [200] * 21
    assert (statuses.count(403), statuses.count(503)) == (9_999, 2_001)


def a_refusal_that_a_push_overtook_is_not_given(backend, clock):
    """A key is pushed while its stamp is read, and somebody writes the old one back: its record is read anew."""
    with administrator(backend, clock) as catalog, replica(backend, clock=clock) as limiter:
        key = catalog.create_key(plans=["gold"])
        assert [ask(limiter, key.value, ELSEWHERE) for _ in range(2)] == [NO_PLAN] * 2
        pushed = []

        def disable():
            if not pushed:
                pushed.append(catalog.update_key(key.id, enabled=False))
                limiter._namespace.on_change_message(f"key:{key.id}")

        with asking(limiter, disable):
            assert ask(limiter, key.value, ELSEWHERE) == DISABLED
