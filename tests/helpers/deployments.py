"""A deployment that `doctor` has nothing against: users by lua/ACL.md, persistence, plans, a key. Of real processes."""

import re
import shlex
from contextlib import contextmanager

import redis

from helpers.commands import run
from helpers.servers import Server, make_client
from helpers.waiting import wait_for
from ratelimit import Catalog
from ratelimit.scripts import folder

PASSWORD = "a-password-of-these-tests"
PATIENT_S = 10
"""A deadline that a busy machine keeps: neither round trips nor commands are too slow for it."""
PLANS = """
[plans.gold]
throttle = {rate = 1, burst = 3}
stages = ["petstore/prod"]
max_identities = 10
"""


def granted(user, *, is_redis_6):
    """The words after ACL SETUSER by which lua/ACL.md makes a user, with our password."""
    text = (folder() / "ACL.md").read_text(encoding="utf-8")
    lines = re.findall(rf"^ACL SETUSER ({user} .*)$", text, re.MULTILINE)
    line = lines[-1] if is_redis_6 else lines[0]
    if is_redis_6:
        line = line.replace("%R~", "~")
    return [word if word != ">change-me" else f">{PASSWORD}" for word in re.findall(r"\([^)]*\)|\S+", line)]


class Deployment:
    """A server with the users `root`, `gateway`, `doctor`; the user `default` is off.

    `key` is the value of an API key. `options` are of the server.
    """

    def __init__(self, name, folder, **options):
        self.is_redis_6 = name == "redis6"
        self.server = Server(name, appendonly="yes", **options)
        self.plan_file = folder / "plans.toml"
        self.plan_file.write_text(PLANS)
        with self.server.client() as client:
            client.execute_command("ACL", "SETUSER", "root", "on", f">{PASSWORD}", "~*", "&*", "+@all")
            for user in ("gateway", "doctor"):
                self.grant(client, granted(user, is_redis_6=self.is_redis_6))
            catalog = Catalog(client)
            catalog.apply(self.plan_file)
            self.key = catalog.create_key("me", plans=["gold"])
            client.execute_command("ACL", "SETUSER", "default", "off")
        self.root = self.client("root")

    def grant(self, client, words):
        """Make a user anew, who may do these words."""
        client.execute_command("ACL", "SETUSER", words[0], "reset", *words[1:])

    def url(self, user):
        return f"unix://{user}:{PASSWORD}@{self.server.socket}"

    def client(self, user, **options):
        return make_client("redis", unix_socket_path=self.server.socket, username=user, password=PASSWORD, **options)

    def report(self, user="doctor", *, gateway_user="gateway", pepper=None, deadline=PATIENT_S):
        """What `doctor` says to a user."""
        with self.client(user) as client:
            return Catalog(client, pepper=pepper).doctor(gateway_user=gateway_user, deadline=deadline)

    def carry_out(self, mend, monkeypatch):
        """Do what a finding says, as an administrator."""
        monkeypatch.chdir(self.plan_file.parent)
        for command in mend.split(" && "):
            words = shlex.split(command, comments=True)
            if words[0] == "redis-cli":
                redis_cli(words, self.root)
            else:
                assert words[0] == "ratelimit"
                result = run(*words[1:], RATELIMIT_URL=self.url("root"))
                assert result.exit_code == 0, result.output

    def stop(self):
        # A server that writes its first append-only file does not end.
        wait_for(lambda: not self._writes_first_file())
        self.root.close()
        self.server.stop()

    def _writes_first_file(self):
        info = self.root.info("persistence")
        return info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"]


def redis_cli(words, client):
    """Run `redis-cli`, with -h and -p on that server, otherwise with this client."""
    if words[1:2] != ["-h"]:
        return client.execute_command(*words[1:])
    with redis.Redis(words[2], int(words[4])) as elsewhere:
        return elsewhere.execute_command(*words[5:])


@contextmanager
def deployment(name, folder, **options):
    made = Deployment(name, folder, **options)
    try:
        yield made
    finally:
        made.stop()


def only(report, check, where=None):
    """The one finding of a check."""
    (finding,) = (each for each in report.findings if each.check == check and where in (None, each.where))
    return finding


def not_well(report):
    """{check: severity} of what is not ok."""
    return {finding.check: finding.severity for finding in report.findings if finding.severity != "ok"}
