"""Alerts on quotas, read by a worker of a consumer group: each alert goes to one worker, and none is lost."""

from redis import Redis
from redis.exceptions import ResponseError

from ratelimit import Limiter, Quota, UsagePlan
from ratelimit.admin.alerts import Alert, alert_from

STREAM, GROUP, WORKER = "ratelimit:alerts", "mailer", "worker-1"


def join(client: Redis) -> None:
    """Create the group, unless it exists. It gets all alerts in the stream, and all that follow."""
    try:
        client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def work(client: Redis, after: str, wait_ms: int) -> bool:
    """Handle some alerts, and return whether there were any.

    `after` is ">" for alerts that no worker has received yet, "0" for those left unacknowledged by a crash of this one.
    """
    # The client must wait longer for a reply than the server does: no socket_timeout, or one above wait_ms.
    # protocol=2, below, makes the reply a list; with 3 it is a map.
    streams = client.xreadgroup(GROUP, WORKER, {STREAM: after}, count=100, block=wait_ms)
    entries = [entry for _, entries in streams for entry in entries]
    for entry_id, fields in entries:
        if fields:  # else the stream, which holds 100,000, has dropped it
            handle(alert_from(fields))
        client.xack(STREAM, GROUP, entry_id)  # only now: after a crash before this, it is delivered again
    return bool(entries)


def handle(alert: Alert) -> None:
    """Notify the customer."""
    print(f"{alert.key_id} reached {alert.percent}% of plan {alert.plan_id}: {alert.used} of {alert.limit}")


with Limiter.embedded() as limiter, Redis.from_url(str(limiter.url), protocol=2) as client:
    limiter.catalog.put_plan(UsagePlan("trial", quota=Quota(10, "MONTH"), stages=["petstore/prod"], alerts=[50, 100]))
    key = limiter.catalog.create_key("visitor", plans=["trial"])
    for _ in range(12):
        limiter.check(key.value, "petstore/prod", "GET /pets")
    join(client)
    while work(client, "0", 1):
        pass
    while work(client, ">", 100):  # a real worker never ends
        pass
