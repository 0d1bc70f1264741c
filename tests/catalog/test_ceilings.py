"""Ceilings: how many things a catalogue may hold, refused beyond before anything is written. On every backend."""

import json
from itertools import chain

import pytest
from catalog.test_catalog_races import at_once
from helpers import aws_samples as aws
from helpers.commands import run
from helpers.interception import InterceptedCatalog, before_script
from helpers.key_files import file
from helpers.redis_snapshot import snapshot
from properties.promises import administrators

from ratelimit import (
    AsyncCatalog,
    Catalog,
    Ceilings,
    ConfigError,
    Limiter,
    Method,
    PlanStage,
    Stage,
    Throttle,
    UsagePlan,
)

ONE = Throttle(1, 1)
VALUE = "my-own-key-value-{:04}"


def plan(name, *stages, methods=0):
    """A plan that opens stages, with so many methods of their own in each."""
    return UsagePlan(
        name, ONE, None, [PlanStage(stage, {f"GET /{i}": ONE for i in range(methods)}) for stage in stages]
    )


@pytest.fixture
def bounded(make_twin):
    """Make a catalogue of either twin with ceilings."""
    return lambda **ceilings: make_twin(ceilings=Ceilings(**ceilings))


@pytest.fixture
def unbounded(client):
    return Catalog(client)


def refused(client, call, *args, **keywords):
    """What a call is refused with, but for the remedy of commands; nothing in Redis has changed then."""
    before = snapshot(client)
    with pytest.raises(ConfigError) as caught:
        call(*args, **keywords)
    assert type(caught.value) is ConfigError  # no Conflict: it is not about other administrators
    assert snapshot(client) == before
    message, remedy, rest = str(caught.value).partition(" (of commands: RATELIMIT_CEILINGS)")
    assert (bool(remedy), rest) == (True, "")
    return message


class TestCeilings:
    def test_the_numbers_of_aws(self):
        """Those of its documentation, per account and region."""
        assert Ceilings.aws() == Ceilings(10_000, 300, 10, 20, 10, 300)

    def test_nothing_is_bounded_unless_asked(self, client, unbounded):
        """A catalogue has none, nor has that of a limiter, where they can be set."""
        assert unbounded.ceilings == Ceilings() == Ceilings(None, None, None, None, None, None)
        with Limiter(client, deadline=5) as limiter:
            assert limiter.catalog.ceilings == Ceilings()
            limiter.catalog.ceilings = Ceilings(keys=0)
            with pytest.raises(ConfigError, match=r"the ceiling \(keys\) is 0"):
                limiter.catalog.create_key()

    @pytest.mark.parametrize(("number", "problem"), [(-1, "from 0"), (1.5, "whole"), (True, "whole"), ("9", "whole")])
    def test_anything_but_whole_numbers(self, number, problem):
        """Is refused with the name of the ceiling."""
        with pytest.raises(ConfigError, match=rf"^plans: must be .*{problem}"):
            Ceilings(plans=number)

    @pytest.mark.parametrize("kind", [Catalog, AsyncCatalog])
    def test_anything_but_ceilings(self, backend, kind):
        """Is refused when the catalogue is made."""
        client = backend.client() if kind is Catalog else backend.async_client()
        with pytest.raises(ConfigError, match=r"^ceilings: must be Ceilings, not \{'keys': 3\}"):
            kind(client, ceilings={"keys": 3})

    def test_without_one_nothing_is_asked(self, backend):
        """A key is made with as many requests as ever, and no revision is kept; a ceiling on keys costs one request."""
        with backend.client() as client:
            requests = {}
            for ceilings in (Ceilings(plans=9, plans_per_key=9), Ceilings(keys=9)):
                intercepted = InterceptedCatalog(Catalog(client, ceilings=ceilings))
                intercepted.catalog.create_key()
                requests[ceilings.keys] = len(intercepted.requests)
                intercepted.requests.clear()
                intercepted.catalog.create_key()
                requests[ceilings.keys] = len(intercepted.requests)
                assert client.hexists("{ratelimit}:catalog", "made") == (ceilings.keys is not None)
            assert requests[9] == requests[None] + 1


class TestPlans:
    def test_their_number(self, bounded, client, tmp_path):
        """One more than the ceiling is refused by put_plan and by apply; as many as it pass, and can be changed."""
        catalog = bounded(plans=2)
        catalog.put_plan(plan("a"))
        catalog.put_plan(plan("b"))
        catalog.put_plan(plan("b", "petstore/prod"))
        message = (
            "plans: the catalogue would have 3 plans, and the ceiling (plans) is 2: take 1 away, or raise the ceiling"
        )
        assert refused(client, catalog.put_plan, plan("c")) == message
        path = tmp_path / "plans.toml"
        path.write_text("[plans.a]\n[plans.b]\n[plans.c]\n[plans.d]\n")
        message = (
            "plans: the catalogue would have 4 plans, and the ceiling (plans) is 2: take 2 away, or raise the ceiling"
        )
        assert refused(client, catalog.apply, path) == message
        assert refused(client, catalog.apply, path, dry_run=True) == message
        path.write_text("[plans.c]\n[plans.d]\n")
        assert len(catalog.apply(path).changes) == 4

    def test_method_throttles_of_a_stage(self, bounded, client):
        """Each stage of each plan has so many; the error names both."""
        catalog = bounded(methods_per_stage=20)
        catalog.put_plan(plan("gold", "petstore/prod", "petstore/test", methods=20))
        assert refused(client, catalog.put_plan, plan("new", "petstore/prod", methods=21)) == (
            "plans.new.stages.\"petstore/prod\".throttles: stage 'petstore/prod' of plan 'new' would have 21 method "
            "throttles, and the ceiling (methods_per_stage) is 20: take 1 away, or raise the ceiling"
        )

    def test_stages_of_an_api(self, bounded, client):
        """Configured and opened ones together, each API for itself."""
        catalog = bounded(stages_per_api=2)
        catalog.put_plan(plan("gold", "petstore/prod", "toys/prod"))
        catalog.put_stage(Stage("petstore/test"))
        catalog.put_stage(Stage("petstore/prod"))
        message = "stages: API 'petstore' would have 3 stages, and the ceiling (stages_per_api) is 2: take 1 away"
        assert refused(client, catalog.put_stage, Stage("petstore/dev")).startswith(message)
        assert refused(client, catalog.put_plan, plan("new", "petstore/dev")).startswith(message)
        catalog.put_plan(plan("new", "toys/dev"))

    def test_resources_of_an_api(self, bounded, client):
        """Paths count once, whatever verbs and stages they have."""
        catalog = bounded(resources_per_api=2)
        catalog.put_stage(Stage("petstore/prod", methods={"GET /0": Method(), "PUT /0": Method(), "GET /1": Method()}))
        catalog.put_plan(plan("gold", "petstore/prod", "petstore/test", "toys/prod", methods=2))
        message = (
            "stages: API 'petstore' would have 3 paths of methods, and the ceiling (resources_per_api) is 2: take 1"
        )
        assert refused(client, catalog.put_plan, plan("new", "petstore/test", methods=3)).startswith(message)

    def test_what_is_beyond_already(self, bounded, client, unbounded):
        """Stays, may be changed and shrink, but does not grow."""
        for name in "abc":
            unbounded.put_plan(plan(name, "petstore/prod", methods=4))
        catalog = bounded(plans=1, methods_per_stage=2)
        catalog.put_plan(plan("a", "petstore/prod", methods=4))
        catalog.put_plan(plan("a", "petstore/prod", methods=3))
        assert "would have 4 method throttles" in refused(
            client, catalog.put_plan, plan("a", "petstore/prod", methods=4)
        )
        catalog.delete_plan("c")
        assert "would have 3 plans" in refused(client, catalog.put_plan, plan("c"))


class TestKeys:
    def test_plans_of_a_key(self, bounded, client):
        """A key is made in, and joins, at most so many."""
        catalog = bounded(plans_per_key=2)
        for name in "abc":
            catalog.put_plan(plan(name, f"{name}/prod"))
        message = "plans: the key would have 3 plans, and the ceiling (plans_per_key) is 2: take 1 away"
        assert refused(client, catalog.create_key, plans=["a", "b", "c"]).startswith(message)
        key = catalog.create_key(plans=["a", "b"])
        message = f"plans: key {key.id!r} would have 3 plans, and the ceiling (plans_per_key) is 2: take 1 away"
        assert refused(client, catalog.add_key_to_plan, key.id, "c").startswith(message)
        catalog.remove_key_from_plan(key.id, "a")
        assert catalog.add_key_to_plan(key.id, "c").plans == ("b", "c")

    def test_a_key_that_is_in_more_already(self, bounded, unbounded):
        """Can be renamed, rotated and leave a plan."""
        for name in "abc":
            unbounded.put_plan(plan(name, f"{name}/prod"))
        key = unbounded.create_key(plans=["a", "b", "c"])
        catalog = bounded(plans_per_key=1)
        assert catalog.update_key(key.id, name="me").plans == ("a", "b", "c")
        assert catalog.rotate_key(key.id).plans == ("a", "b", "c")
        assert catalog.remove_key_from_plan(key.id, "a").plans == ("b", "c")

    def test_their_number(self, bounded, client):
        """One more than the ceiling is refused until one is deleted."""
        catalog = bounded(keys=2)
        first = catalog.create_key()
        catalog.create_key()
        message = (
            "keys: the catalogue would have 3 keys, and the ceiling (keys) is 2: take 1 away, or raise the ceiling"
        )
        assert refused(client, catalog.create_key) == message
        catalog.delete_key(first.id)
        catalog.create_key()
        assert refused(client, catalog.create_key) == message

    def test_none_at_all(self, bounded, client):
        """An empty namespace stays empty: not even a catalogue is made."""
        assert "is 0: take 1 away" in refused(client, bounded(keys=0).create_key)
        assert client.dbsize() == 0

    def test_more_than_the_ceiling_already(self, bounded, client, unbounded):
        """The true number is reported, and so is what to do."""
        for _ in range(3):
            unbounded.create_key()
        assert refused(client, bounded(keys=2).create_key) == (
            "keys: the catalogue would have 4 keys, and the ceiling (keys) is 2: take 2 away, or raise the ceiling"
        )


HEAD = "Key,Name,UsagePlanIds\n"


def rows(*numbers):
    return HEAD + "".join(f"{VALUE.format(number)},name {number},\n" for number in numbers)


def warned(report):
    return [(warning.line, warning.message) for warning in report.warnings]


NO_ROOM = (
    "Key: the catalogue is full, 3 keys are its ceiling (keys): delete some, or raise the ceiling, and import again"
)


class TestImport:
    def test_rows_beyond_the_ceiling(self, bounded):
        """Those for which there is room are stored, in the order of the file; the others draw a warning each."""
        catalog = bounded(keys=3)
        catalog.create_key("there")
        report = catalog.import_keys(file(rows(1, 2, 3, 4)))
        assert (report.created, warned(report)) == (2, [(4, NO_ROOM), (5, NO_ROOM)])
        assert [key.name for key in catalog.list_keys().items] == ["name 2", "name 1", "there"]

    def test_all_or_nothing(self, bounded, client):
        """With fail_on_warnings nothing is stored, over batches too; a value counts once, however often it is there."""
        catalog = bounded(keys=70)
        catalog.create_key("there")
        before = snapshot(client)
        assert len(catalog.import_keys(file(rows(*range(70))), fail_on_warnings=True).warnings) == 1
        assert snapshot(client) == before
        report = catalog.import_keys(file(rows(*range(69), *range(69))), fail_on_warnings=True)
        assert (report.created, report.warnings) == (69, ())

    def test_keys_that_exist(self, bounded):
        """Need no room: a full catalogue takes its own file again."""
        catalog = bounded(keys=3)
        catalog.import_keys(file(rows(1, 2, 3)))
        report = catalog.import_keys(file(rows(1, 2, 3).replace("name", "title")))
        assert (report.created, report.updated, report.warnings) == (0, 3, ())

    def test_plans_of_a_key(self, bounded, unbounded):
        """Those beyond the ceiling are dropped with a warning; a key that is in more already may stay so."""
        for name in "abc":
            unbounded.put_plan(plan(name, f"{name}/prod"))
        text = HEAD + f"{VALUE.format(1)},me,'a,b,c'\n"
        report = bounded(plans_per_key=2).import_keys(file(text))
        message = (
            "UsagePlanIds: 'c' would be plan number 3 of this key, beyond the ceiling (plans_per_key) of 2, and was "
            "dropped: leave it out, or raise the ceiling"
        )
        assert warned(report) == [(2, message)]
        assert unbounded.get_key(report.ids[0]).plans == ("a", "b")
        unbounded.import_keys(file(text))
        assert bounded(plans_per_key=1).import_keys(file(text.replace(",me,", ",you,"))).warnings == ()
        assert unbounded.get_key(report.ids[0]).plans == ("a", "b", "c")

    def test_keys_that_are_made_meanwhile(self, backend, client):
        """Take the room: the row is reported, not stored."""
        with backend.client() as other:
            catalog = Catalog(client, ceilings=Ceilings(keys=3))
            catalog.import_keys(file(rows(1)))
            InterceptedCatalog(
                catalog, before_script(lambda: Catalog(other, ceilings=Ceilings(keys=3)).create_key("other"), number=1)
            )
            report = catalog.import_keys(file(rows(1, 2, 3)))
        assert (report.created, report.updated, warned(report)) == (1, 1, [(4, NO_ROOM)])


class TestAws:
    def test_plans(self, bounded, client, tmp_path):
        """More than the ceiling: nothing at all is stored."""
        message = refused(client, bounded(plans=2).import_aws, aws.exported(tmp_path))
        assert message == (
            "plans: the catalogue would have 3 plans, and the ceiling (plans) is 2: take 1 away, or raise the ceiling"
        )

    def test_keys(self, bounded, tmp_path):
        """Those for which there is no room are reported; so is each plan that a key cannot be put into."""
        export = aws.exported(tmp_path)
        report = bounded(keys=2, plans_per_key=1).import_aws(export)
        assert (report.created, sorted(report.ids)) == (2, ["k1aaaaaaaa", "k2bbbbbbbb"])
        assert (
            "key k1aaaaaaaa: is not put into plan trial7: it is in 1 already, and the ceiling (plans_per_key) is 1"
            in [str(note) for note in report.notes]
        )
        full = "the catalogue is full, 2 keys are its ceiling (keys): delete some, or raise the ceiling"
        assert [note.why for note in report.notes if "full" in note.why] == [f"is not carried over: {full}"]
        again = bounded(keys=3).import_aws(export)
        assert (again.created, again.updated) == (1, 2)


class TestAtOnce:
    """Administrators with ceilings, each on a connection of its own, on every real server."""

    def test_the_last_room_is_taken_once(self, server):
        """Both saw it: one of them is refused."""
        administrators.a_ceiling_holds_between_administrators(server)

    def test_many_make_keys(self, server):
        """Sixteen administrators make five keys each, where there is room for 50: 50 are made, and all else refused."""
        clients = [server.client() for _ in range(16)]
        admins = [Catalog(client, ceilings=Ceilings(keys=50)) for client in clients]

        def five(admin):
            return [administrators.raised(admin.create_key) for _ in range(5)]

        results = at_once(*(lambda admin=admin: five(admin) for admin in admins))
        assert sorted(map(str, chain(*results))) == ["ConfigError"] * 30 + ["None"] * 50
        assert len(admins[0].keys()) == 50
        for client in clients:
            client.close()

    def test_many_make_plans(self, server):
        """The same of plans: the last one is put once."""
        clients = [server.client() for _ in range(4)]
        admins = [Catalog(client, ceilings=Ceilings(plans=2)) for client in clients]
        results = at_once(*(lambda n=n, admin=admin: admin.put_plan(plan(f"p{n}")) for n, admin in enumerate(admins)))
        assert sorted(type(result).__name__ for result in results) == ["ConfigError"] * 2 + ["NoneType"] * 2
        assert len(admins[0].plans()) == 2
        for client in clients:
            client.close()


class TestCommands:
    def test_the_variable(self, server):
        """RATELIMIT_CEILINGS bounds what commands make: exit code 2, and the ceiling is named."""
        bounds = {"RATELIMIT_URL": server.url, "RATELIMIT_CEILINGS": "aws, plans=1,keys=none"}
        assert run("plans", "put", "a", **bounds).exit_code == 0
        result = run("plans", "put", "b", **bounds)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == (
            "Error: plans: the catalogue would have 2 plans, and the ceiling (plans) is 1: take 1 away, or raise the "
            "ceiling (of commands: RATELIMIT_CEILINGS)\n"
        )
        assert json.loads(run("plans", "list", "--json", **bounds).stdout)[0]["id"] == "a"

    @pytest.mark.parametrize("text", ["aws2", "keys", "keys=", "keys=-1", "keys=1.5", "plan=3", "keys=" + "9" * 16])
    def test_nonsense(self, text):
        """Is refused before the server is asked, with what can be written."""
        result = run("plans", "list", RATELIMIT_URL="unix:///nowhere", RATELIMIT_CEILINGS=text)
        assert result.exit_code == 2
        assert result.stderr.startswith(
            f"Error: RATELIMIT_CEILINGS: cannot be read at {text!r}: write aws, NAME=NUMBER or NAME=none, "
        )
