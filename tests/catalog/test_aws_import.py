"""Coming from AWS: what an import stores, and what it leaves alone."""

import pytest
from helpers import aws_samples as aws
from helpers.redis_snapshot import snapshot

from ratelimit import (
    AsyncCatalog,
    Catalog,
    ConfigError,
    Conflict,
    Limiter,
    Quota,
    Stage,
    StoreError,
    Throttle,
    UsagePlan,
)
from ratelimit.admin.aws import importer as aws_importer
from ratelimit.admin.csv import batch_by_slot


def test_an_import_is_what_checks_go_by(tmp_path, limiter):
    """After one call keys open their stages, throttles and quotas are those of AWS, methods without a key are open."""
    report = limiter.catalog.import_aws(aws.exported(tmp_path))
    assert (report.plans, report.stages) == (
        ("gold01", "trial7", "empty9"),
        tuple(stage.id for stage in aws.EXPECTED_STAGES),
    )
    assert (report.created, report.updated, set(report.ids)) == (3, 0, set(aws.VALUES))
    assert [str(note) for note in report.notes] == [aws.OFFSET]
    catalog = limiter.catalog
    assert catalog.plans() == sorted(aws.EXPECTED_PLANS, key=lambda plan: plan.id)
    assert catalog.stages() == sorted(aws.EXPECTED_STAGES, key=lambda stage: stage.id)
    assert catalog.get_account_throttle() == Throttle(10_000, 5_000)
    alpha = catalog.get_key(report.ids["k1aaaaaaaa"])
    assert (alpha.name, alpha.plans, alpha.enabled) == ("alpha", ("gold01", "trial7"), True)
    assert (alpha.description, alpha.tags, alpha.created_at) == ("the first", {"team": "red"}, 1_706_933_106)
    one, two, three = aws.VALUES.values()
    decision = limiter.check(one, f"{aws.PETS}/prod", "GET /pets")
    assert [limit.name for limit in decision.limits] == [
        "plan:gold01:GET /pets",
        f"stage:{aws.PETS}/prod:GET /pets",
        "account",
        "quota:gold01",
    ]
    assert limiter.check(one, f"{aws.PETS}/prod", "GET /pets").limited_by == "plan:gold01:GET /pets"
    assert limiter.check(two, f"{aws.PETS}/prod", "GET /pets").detail == "disabled"
    assert limiter.check(three, f"{aws.PETS}/test", "GET /pets").allowed
    assert limiter.check(three, f"{aws.PETS}/prod", "GET /pets").detail == "no_plan_for_stage"
    assert limiter.check(None, f"{aws.PETS}/prod", "OPTIONS /pets").allowed


def test_an_import_twice_changes_nothing(tmp_path, limiter, backend):
    """The second time not a byte in Redis changes, and the report says that all existed."""
    export = aws.exported(tmp_path)
    first = limiter.catalog.import_aws(export)
    with backend.client() as client:
        before = snapshot(client)
        second = limiter.catalog.import_aws(export)
        assert snapshot(client) == before
    assert (second.created, second.updated, second.ids) == (0, 3, first.ids)
    assert second.notes == first.notes


def test_an_import_leaves_the_rest_as_it_is(tmp_path, limiter):
    """Other plans, stages and keys stay; of a plan that is replaced, what AWS knows nothing of stays, too."""
    catalog = limiter.catalog
    catalog.put_plan(UsagePlan("own", Throttle(1, 1), stages=["own/prod"]))
    catalog.put_plan(UsagePlan("gold01", None, Quota(5, "DAY"), alerts=[80], shadow="own"))
    catalog.put_stage(Stage("own/prod", Throttle(9, 9)))
    own = catalog.create_key("own", plans=["own", "gold01"])
    report = catalog.import_aws(aws.exported(tmp_path, **{"settings.json": None}))
    assert catalog.get_plan("own") == UsagePlan("own", Throttle(1, 1), stages=["own/prod"])
    gold = catalog.get_plan("gold01")
    assert (gold.quota, gold.alerts, gold.shadow, gold.stages) == (
        aws.EXPECTED_PLANS[0].quota,
        (80,),
        "own",
        aws.EXPECTED_PLANS[0].stages,
    )
    assert catalog.stages()[-1] == Stage("own/prod", Throttle(9, 9))
    assert catalog.get_key(own.id).plans == ("own", "gold01")
    assert catalog.get_account_throttle() is None
    assert report.created == 3


def test_keys_that_exist_are_changed_by_value(tmp_path, limiter):
    """A key keeps its id and its counts; its plans in the export are those of AWS, its others stay."""
    catalog = limiter.catalog
    export = aws.exported(tmp_path)
    catalog.put_plan(UsagePlan("own", stages=["own/prod"]))
    catalog.put_plan(aws.EXPECTED_PLANS[0])
    value = aws.VALUES["k3cccccccc"]
    key = catalog.create_key("old name", value, ["gold01", "own"], enabled=False, owner="mine", description="kept")
    report = catalog.import_aws(export)
    assert report.ids["k3cccccccc"] == key.id
    changed = catalog.get_key(key.id)
    assert (changed.name, changed.enabled, changed.owner, changed.description) == ("gamma", True, "mine", "kept")
    assert changed.plans == ("own", "trial7")
    assert (report.created, report.updated) == (2, 1)


def test_a_key_of_plans_that_were_not_exported_with_keys_stays_in_them(tmp_path, limiter):
    """Without get-usage-plan-keys nobody knows, so nothing changes."""
    limiter.catalog.import_aws(aws.exported(tmp_path / "whole"))
    report = limiter.catalog.import_aws(aws.exported(tmp_path / "part", **{"keys-of-gold01.json": None}))
    assert limiter.catalog.get_key(report.ids["k1aaaaaaaa"]).plans == ("gold01", "trial7")
    expected_note = "plan gold01: no key is put into it: there is no get-usage-plan-keys of it"
    assert expected_note in [str(note) for note in report.notes]


def test_a_key_in_a_plan_of_its_own_is_not_put_into_another_of_the_stage(tmp_path, limiter):
    """One plan per stage: the key stays where it is, and a note says so."""
    limiter.catalog.put_plan(UsagePlan("own", stages=[f"{aws.PETS}/test"]))
    key = limiter.catalog.create_key("mine", aws.VALUES["k3cccccccc"], ["own"])
    report = limiter.catalog.import_aws(aws.exported(tmp_path))
    assert limiter.catalog.get_key(key.id).plans == ("own",)
    expected_note = f"key k3cccccccc: is not put into plan trial7: plan own, which it is in, opens {aws.PETS}/test, too"
    assert [str(note) for note in report.notes] == [aws.OFFSET, expected_note]


def test_plans_that_would_double_a_key_store_nothing(tmp_path, limiter, backend):
    """A key that exists in two plans which the export makes overlap: Conflict, and not a byte is written."""
    limiter.catalog.put_plan(UsagePlan("own", stages=[f"{aws.PETS}/test"]))
    limiter.catalog.put_plan(UsagePlan("trial7", stages=["else/prod"]))
    limiter.catalog.create_key("both", plans=["own", "trial7"])
    with backend.client() as client:
        before = snapshot(client)
        with pytest.raises(Conflict, match="two plans of stage"):
            limiter.catalog.import_aws(aws.exported(tmp_path))
        assert snapshot(client) == before


def test_a_former_value_is_not_brought_back(tmp_path, limiter):
    """A value that a rotation replaced is left alone, with a note; the key is not changed."""
    key = limiter.catalog.create_key("mine", aws.VALUES["k3cccccccc"])
    limiter.catalog.rotate_key(key.id, grace_s=3600)
    before = limiter.catalog.get_key(key.id)
    report = limiter.catalog.import_aws(aws.exported(tmp_path))
    assert limiter.catalog.get_key(key.id) == before
    assert "k3cccccccc" not in report.ids
    expected_note = f"key k3cccccccc: is left as it is: key {key.id} was rotated, and this is its former value"
    assert str(report.notes[-1]) == expected_note


def test_a_malformed_file_stores_nothing(tmp_path, limiter, backend):
    """The whole export is read before anything is stored."""
    with backend.client() as client:
        with pytest.raises(ConfigError):
            limiter.catalog.import_aws(aws.exported(tmp_path, **{"two.json": '{"items": ['}))
        assert snapshot(client) == {}


def test_an_id_that_is_a_value_is_not_reported(tmp_path, limiter):
    """Old accounts have keys whose id is their value: they are imported, and shown nowhere."""
    keys = {"items": [{**aws.KEY, "id": aws.SECRET, "value": aws.SECRET, "customerId": "c"}]}
    report = limiter.catalog.import_aws(aws.exported(tmp_path, **{"two.json": keys}))
    assert (report.created, report.ids) == (1, {})
    assert aws.SECRET not in repr(report)
    assert limiter.catalog.keys()[0].owner == "c"
    assert limiter.check(aws.SECRET, f"{aws.PETS}/prod", "GET /x").detail == "no_plan_for_stage"


def test_an_interrupted_import_goes_on_when_repeated(tmp_path, limiter, monkeypatch):
    """A fault between two batches leaves whole keys, says how many, and the next import completes them."""
    monkeypatch.setattr(batch_by_slot, "_ROWS_OF_ONE_SCRIPT", 2)
    export, genuine = aws.exported(tmp_path), aws_importer.AwsImporter._store
    batches = []

    def failing(self, keys, notes, done):
        batches.append(len(keys))
        if len(batches) == 2:
            raise StoreError("gone")
        return (yield from genuine(self, keys, notes, done))

    monkeypatch.setattr(aws_importer.AwsImporter, "_store", failing)
    with pytest.raises(StoreError) as caught:
        limiter.catalog.import_aws(export)
    assert caught.value.__notes__ == ["2 keys are done; import the export again to go on"]
    assert len(limiter.catalog.keys()) == 2
    monkeypatch.setattr(aws_importer.AwsImporter, "_store", genuine)
    report = limiter.catalog.import_aws(export)
    assert (report.created, report.updated) == (1, 2)


@pytest.mark.asyncio
async def test_both_catalogues_import_the_same(tmp_path, backend):
    """What the twin stores, the other one finds: nothing is left for it to write."""
    export = aws.exported(tmp_path)
    async with backend.async_client() as async_client:
        report = await AsyncCatalog(async_client).import_aws(export)
    with backend.client() as client:
        before = snapshot(client)
        again = Catalog(client).import_aws(export)
        assert snapshot(client) == before
    assert (report.created, again.updated, again.ids) == (3, 3, report.ids)


def test_many_keys_are_imported_in_batches(tmp_path, server):
    """A thousand keys under a pepper: a few round trips for each batch, and every one of them works."""
    many = [{**aws.KEY, "id": f"k{n}", "value": f"tenant-{n:05}-abcdefghijklm", "name": f"n{n}"} for n in range(1000)]
    listed = {"items": [{"id": key["id"], "type": "API_KEY"} for key in many]}
    export = aws.exported(
        tmp_path, **{"two.json": {"items": many}, "keys-of-gold01.json": listed, "trial7/keys.json": None}
    )
    with server.client() as client, Limiter(client, deadline=5, pepper="salt") as limiter:
        client.config_resetstat()
        report = limiter.catalog.import_aws(export)
        scripts = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
        assert (report.created, scripts) == (1000, 17)  # the plans, and 16 batches of at most 64 keys
        for key in (many[0], many[999]):
            assert limiter.check(key["value"], f"{aws.PETS}/prod", "GET /x").allowed
