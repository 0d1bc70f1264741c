"""Every command of the command line, on a server with slots and on a cluster: it says what it says on one server."""

import json
import re

import pytest
from helpers import aws_samples
from helpers.agreement import disagreements
from helpers.commands import run
from helpers.key_files import ALPHA, BETA, GAMMA

PLANS = """
[plans.gold]
throttle = {rate = 1, burst = 3}
quota = {limit = 100, period = "DAY"}
alerts = [1]
shadow = "silver"
stages = ["petstore/prod"]
max_identities = 10

[plans.silver]
throttle = {rate = 1, burst = 1}
stages = ["petstore/prod"]

[plans.toys]
stages = ["toys/prod"]
"""
ROWS = f"Key,Name,UsagePlanIds\n{BETA},from a file,gold\n{GAMMA},other,toys\n"
COMMANDS = """
apply {plans}
apply {plans}
account set --rate 5 --burst 5
account show
account unset --yes
stages put toys/prod --rate 3 --burst 3 --yes
stages list
stages show toys/prod
stages delete toys/prod --yes
plans list
plans show gold
plans offers
keys create first --plan gold --owner me --tag a=b --value-from stdin
keys list
keys show {id}
keys opens {id}
check {alpha} petstore/prod
check {alpha} petstore/prod --peek
check {alpha} petstore/prod --cost 2
check {alpha} petstore/prod
keys update {id} --name renamed
keys disable {id}
check {alpha} petstore/prod
keys enable {id}
plans shadow gold
plans shadow-reset gold --yes
usage show gold
usage set-remaining gold {id} 7
usage show gold --key {id}
top --once
watch --from-start --count 1 --seconds 5
keys move {id} gold silver
keys add {id} toys
keys remove {id} toys
keys rotate {id} --grace 60 --yes --value-from new
keys import {rows}
keys import {rows} --fail-on-warnings
keys list --all
keys export -
plans put bronze --rate 1 --burst 1 --stage petstore/prod --yes
plans delete bronze --yes
plans delete gold --yes
capacity
capacity --new-customer silver
import-aws {aws}
import-aws {aws} --dry-run
scripts load
upgrade
keys delete {id} --yes
keys show {id}
keys disable {id} --durable
"""


class Outputs:
    """What commands say, with what differs from run to run left out."""

    def __init__(self, url, folder):
        self._url, self._places = url, {"alpha": ALPHA, **_files(folder)}

    def of(self, command):
        arguments = [word.format(**self._places) for word in command.split()]
        stdin = {"stdin": ALPHA, "new": f"{ALPHA}-new"}.get(arguments[-1])
        if stdin is not None:
            arguments[-1] = "stdin"
        result = run(*arguments, stdin=stdin, RATELIMIT_URL=self._url)
        assert not isinstance(result.exception, Exception), (command, result.exception)
        if command.startswith("keys create"):
            listed = run("keys", "list", "--json", RATELIMIT_URL=self._url)
            self._places["id"] = json.loads(listed.output)["keys"][0]["id"]
        return result.exit_code, _without_chance(result.output)


def _files(folder):
    plans, rows = folder / "plans.toml", folder / "rows.csv"
    plans.write_text(PLANS)
    rows.write_text(ROWS)
    return {"plans": plans, "rows": rows, "aws": aws_samples.written(folder / "aws")}


def _without_chance(text):
    """Its lines, in no order: Redis has none in a hash."""
    text = re.sub(r"(redis|unix)://\S+", "<url>", text)
    text = re.sub(r"\b[a-z0-9]{10}\b", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?", "<time>", text)
    return sorted(re.sub(r"[0-9.]+ (ms|s)\b", "<duration>", text).splitlines())


def said(url, folder):
    outputs = Outputs(url, folder)
    return {f"{number} {command}": outputs.of(command) for number, command in enumerate(COMMANDS.strip().splitlines())}


@pytest.fixture
def expected(valkey, tmp_path):
    """What one server says."""
    return said(valkey.url, tmp_path)


def test_on_a_server_with_slots(expected, slots, tmp_path):
    assert said(slots.url, tmp_path) == expected
    with slots.client() as client:
        assert disagreements(client) == []


def test_on_a_cluster(expected, cluster, tmp_path):
    assert said(cluster.url, tmp_path) == expected
    with cluster.client() as client:
        assert disagreements(client) == []
