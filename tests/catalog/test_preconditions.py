"""Changes that rest on what somebody was shown: another administrator changes the thing before it is written."""

import pytest
from helpers.commands import run
from helpers.interception import InterceptedCatalog, before_script
from helpers.redis_snapshot import snapshot

from ratelimit import Catalog, Conflict, NotFound, Stage, Throttle, UsagePlan
from ratelimit.cli import options

STAGE = "petstore/prod"
ONE, TWO, THREE = (Throttle(rate, 5) for rate in (1, 2, 3))
GOLD = UsagePlan("gold", ONE, stages=[STAGE])
SILVER = UsagePlan("silver", TWO, stages=["toys/prod"])


@pytest.fixture
def catalog(make_twin):
    """Either twin on each backend, with a plan that has a shadow, a stage, and the account's throttle."""
    catalog = make_twin()
    catalog.put_plan(SILVER)
    catalog.put_plan(GOLD)
    catalog.put_stage(Stage(STAGE, ONE))
    catalog.set_account_throttle(ONE)
    return catalog


def refused(client, call, *args, **keywords):
    """What a call is refused with; nothing in Redis has changed then."""
    before = snapshot(client)
    with pytest.raises(Conflict) as caught:
        call(*args, **keywords)
    assert snapshot(client) == before
    return str(caught.value)


AGAIN = "by somebody else meanwhile: look at it again, then decide anew"


class TestCatalogue:
    def test_a_plan(self, catalog, client):
        """Is replaced and removed only as it was seen; None: only if there was none."""
        new = UsagePlan("gold", THREE)
        assert refused(client, catalog.put_plan, new, expected=None) == f"plan: plan 'gold' was made {AGAIN}"
        assert refused(client, catalog.put_plan, new, expected=SILVER) == f"plan: plan 'gold' was changed {AGAIN}"
        assert refused(client, catalog.put_plan, UsagePlan("new"), expected=GOLD) == (
            f"plan: plan 'new' was removed {AGAIN}"
        )
        assert refused(client, catalog.delete_plan, "gold", expected=new) == f"plan_id: plan 'gold' was changed {AGAIN}"
        catalog.put_plan(new, expected=GOLD)
        catalog.put_plan(GOLD)
        catalog.put_plan(UsagePlan("new"), expected=None)
        catalog.delete_plan("gold", expected=GOLD)
        with pytest.raises(NotFound):
            catalog.delete_plan("gold", expected=GOLD)

    def test_a_stage(self, catalog, client):
        """Its configuration is replaced and removed only as it was seen; None: only if there was none."""
        new = Stage(STAGE, THREE)
        assert (
            refused(client, catalog.put_stage, new, expected=None) == f"stage: stage 'petstore/prod' was made {AGAIN}"
        )
        assert (
            refused(client, catalog.put_stage, new, expected=new) == f"stage: stage 'petstore/prod' was changed {AGAIN}"
        )
        assert (
            refused(client, catalog.put_stage, Stage("toys/a"), expected=new)
            == f"stage: stage 'toys/a' was removed {AGAIN}"
        )
        assert refused(client, catalog.delete_stage, STAGE, expected=Stage(STAGE)) == (
            f"stage_id: stage 'petstore/prod' was changed {AGAIN}"
        )
        catalog.delete_stage(STAGE, expected=Stage(STAGE, ONE))

    def test_the_account(self, catalog, client):
        """Its throttle is set and removed only as it was seen."""
        message = f"throttle: the account's throttle was changed {AGAIN}"
        assert refused(client, catalog.set_account_throttle, None, expected=TWO) == message
        catalog.set_account_throttle(None, expected=ONE)
        message = f"throttle: the account's throttle was removed {AGAIN}"
        assert refused(client, catalog.set_account_throttle, TWO, expected=ONE) == message
        catalog.set_account_throttle(TWO, expected=None)

    def test_a_key(self, catalog, client):
        """Is rotated and deleted only in the revision that was read, which every change moves, a rotation too."""
        made = catalog.create_key("me")
        renamed = catalog.update_key(made.id, name="you")
        message = f"key_id: key {made.id!r} was changed {AGAIN}"
        assert refused(client, catalog.rotate_key, made.id, expected=made) == message
        assert refused(client, catalog.delete_key, made.id, expected=made) == message
        rotated = catalog.rotate_key(made.id, expected=renamed)
        assert rotated == renamed
        assert refused(client, catalog.delete_key, made.id, expected=renamed) == message
        assert catalog.get_key(made.id).revision == rotated.revision
        catalog.delete_key(made.id, expected=rotated)

    def test_a_trial(self, catalog, client):
        """Starts anew only on the plan that was seen, with its shadow."""
        tried = UsagePlan("gold", ONE, stages=[STAGE], shadow="silver")
        catalog.put_plan(tried)
        assert refused(client, catalog.reset_shadow, "gold", expected=GOLD) == (
            f"plan_id: plan 'gold' was changed {AGAIN}"
        )
        catalog.reset_shadow("gold", expected=tried)

    def test_a_change_in_the_last_moment(self, client, backend):
        """Between the look and the commit: noticed as well."""
        catalog = Catalog(client)
        catalog.put_plan(GOLD)
        with backend.client() as other:
            InterceptedCatalog(
                catalog, before_script(lambda: Catalog(other).put_plan(UsagePlan("gold", TWO)), number=1)
            )
            with pytest.raises(Conflict, match="was changed by somebody else"):
                catalog.put_plan(UsagePlan("gold", THREE), expected=GOLD)
        assert catalog.get_plan("gold").throttle == TWO


@pytest.fixture
def admin(server):
    """Another administrator."""
    with server.client() as client:
        catalog = Catalog(client)
        catalog.put_plan(SILVER)
        catalog.put_plan(UsagePlan("gold", ONE, stages=[STAGE], shadow="silver"))
        catalog.put_stage(Stage(STAGE, ONE))
        catalog.set_account_throttle(ONE)
        yield catalog


def change_plan(admin, _key):
    admin.put_plan(UsagePlan("gold", THREE, stages=[STAGE]))


ASKING = [
    (["plans", "put", "gold", "--rate", "9", "--burst", "9"], change_plan),
    (["plans", "delete", "gold"], change_plan),
    (["plans", "shadow-reset", "gold"], change_plan),
    (["stages", "put", STAGE], lambda admin, _key: admin.put_stage(Stage(STAGE, THREE))),
    (["stages", "delete", STAGE], lambda admin, _key: admin.put_stage(Stage(STAGE, THREE))),
    (["account", "unset"], lambda admin, _key: admin.set_account_throttle(THREE)),
    (["keys", "delete", "KEY"], lambda admin, key: admin.update_key(key.id, owner="somebody")),
    (["keys", "rotate", "KEY"], lambda admin, key: admin.rotate_key(key.id)),
]


@pytest.mark.parametrize(("command", "meanwhile"), ASKING, ids=[" ".join(each[0][:2]) for each in ASKING])
def test_a_command_that_asks(server, admin, monkeypatch, command, meanwhile):
    """While somebody thinks about the prepared another changes the thing: exit code 2, and the other's change holds."""
    key, seen = admin.create_key("me"), []

    def confirm(prepared, *, yes):
        meanwhile(admin, key)
        with server.client() as client:
            seen.append(snapshot(client))

    monkeypatch.setattr(options, "confirm", confirm)
    result = run(*[key.id if word == "KEY" else word for word in command], RATELIMIT_URL=server.url)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.endswith(f"was changed {AGAIN}\n")
    with server.client() as client:
        assert [snapshot(client)] == seen
