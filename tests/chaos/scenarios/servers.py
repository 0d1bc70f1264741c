"""A server that stops, crashes, pauses or refuses."""

import threading
from contextlib import suppress

import redis

from chaos.deployments import direct, one_server, with_log
from chaos.run import KEYS, Scenario

JUNK, LOAD_US_PER_KEY = 3000, 400
"""Keys that take 1.2 s to load."""
HELD_BACK_US = 2_000_000
COUNTED_AFTER_S = 6
"""They count each other each 5 s."""

REFUSED = "A server that refuses is not asked twice, nothing is charged, and it is used again as soon as it works."


def _before_and_after(run, fault):
    """Some load, the fault, some load; then a key is revoked."""
    run.steady(run.between(1, 1.5))
    fault(run)
    run.steady(2)
    run.revoke()
    run.steady(0.7)


def _stopped(run):
    def fault(run):
        with run.fault("SIGSTOP"), run.server.stopped():
            run.steady(run.between(1.5, 2.5))

    _before_and_after(run, fault)


def _paused(run):
    def fault(run):
        with run.fault("CLIENT PAUSE"), run.server.client() as client:
            milliseconds = round(run.between(1500, 2500))
            client.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")
            run.steady(milliseconds / 1000)

    _before_and_after(run, fault)


def _crash(run):
    run.server.crash()
    run.event("crashed")
    run.steady(run.between(0.3, 0.8))
    run.server.start_again()


def _crash_with_aof(run):
    def fault(run):
        with run.fault("kill -9"):
            _crash(run)

    _before_and_after(run, fault)


def _crash_empty(run):
    def fault(run):
        with run.fault("kill -9, all data lost"):
            _crash(run)
            run.steady(1)
            run.restore()

    _before_and_after(run, fault)


def _crash_with_snapshot(run, *options):
    """The snapshot is older than what was decided since."""

    def fault(run):
        run.event("saving")
        with run.server.client() as client:
            client.save()
        run.steady(run.between(0.5, 1))
        with run.fault("kill -9, with an older snapshot"):
            run.server.crash()
            run.event("crashed")
            run.steady(run.between(0.3, 0.8))
            run.server.start_again(*options, wait=False)
            _until_loaded(run)

    _before_and_after(run, fault)


def _until_loaded(run):
    while True:
        run.steady(0.02)
        if run.server.process.poll() is not None:
            raise RuntimeError(f"the server did not start: {(run.server.folder / 'log').read_text()[-500:]}")
        with suppress(redis.ConnectionError), run.server.client() as client:
            client.ping()  # BusyLoadingError is a ConnectionError
            return


def _loading(run):
    with run.server.client() as client, client.pipeline(transaction=False) as pipeline:
        for number in range(JUNK):
            pipeline.set(f"junk:{number}", "x" * 100)
        pipeline.execute()
    _crash_with_snapshot(
        run, "--key-load-delay", str(LOAD_US_PER_KEY), "--loading-process-events-interval-bytes", "1024"
    )


def since_saved(key):
    """What a key admitted from the snapshot to the crash: it is not counted any more. None: all keys."""
    return lambda history: _admitted_until_the_crash(history, key, history.of("saving")[0].at_us)


def just_before(key):
    """What a key admitted in the last seconds that a log may lack."""
    return lambda history: _admitted_until_the_crash(history, key, history.of("crashed")[0].at_us - HELD_BACK_US)


def _admitted_until_the_crash(history, key, since_us):
    (crashed,) = history.of("crashed")
    return sum(
        check.cost
        for check in history.checks
        if check.allowed
        and (key is None or check.key == key)
        and since_us < check.received_us
        and check.sent_us < crashed.at_us
    )


def _refusing(what, begin, end):
    """An act: `begin` makes the server refuse, `end` makes it work again; both are given a client that is connected."""

    def act(run):
        def fault(run):
            with run.server.client() as client:
                client.ping()
                with run.fault(what):
                    begin(run, client)
                    run.steady(run.between(1, 2))
                    end(run, client)

        _before_and_after(run, fault)

    return act


def _settings(what, begin, end):
    """The same by settings; connections are made anew."""

    def change(settings):
        def apply(_run, client):
            for name, value in settings.items():
                client.config_set(name, value)
            client.client_kill_filter(_type="normal", skipme=True)

        return apply

    return _refusing(what, change(begin), change(end))


def _become_replica(_run, client):
    client.replicaof("127.0.0.1", 1)


def _become_primary(_run, client):
    client.replicaof("NO", "ONE")


def _break_saving(run, client):
    client.config_set("save", "3600 1")
    (run.server.folder / "dump.rdb").mkdir()  # it cannot be replaced by a file
    with suppress(redis.ResponseError):
        client.save()
    client.bgsave()
    while client.info("persistence")["rdb_bgsave_in_progress"]:
        run.steady(0.01)


def _mend_saving(run, client):
    (run.server.folder / "dump.rdb").rmdir()
    client.config_set("save", "")
    client.save()


def _busy(run):
    def fault(run):
        def endless():
            with suppress(redis.ResponseError), run.server.client() as client:
                client.eval("while true do end", 0)

        thread = threading.Thread(target=endless)
        with run.server.client() as client, run.fault("an endless script"):
            thread.start()
            run.steady(run.between(1, 2))
            client.script_kill()
            thread.join()

    _before_and_after(run, fault)


def _stopped_once_counted(run):
    run.steady(COUNTED_AFTER_S)
    _stopped(run)


def _flaps(run):
    def fault(run):
        for _ in range(3):
            with run.fault("SIGSTOP"), run.server.stopped():
                run.steady(run.between(0.6, 0.9))
            run.steady(run.between(0.4, 0.6))

    _before_and_after(run, fault)


def _blips(run):
    run.steady(run.between(1, 1.5))
    with run.server.client() as client:
        for _ in range(3):
            with run.fault("CLIENT PAUSE"):
                milliseconds = round(run.between(60, 300))
                client.execute_command("CLIENT", "PAUSE", milliseconds, "ALL")
                run.steady(milliseconds / 1000)
            run.steady(run.between(0.5, 1))
    run.steady(3)
    run.revoke()
    run.steady(0.7)


def _flush_scripts(run):
    def fault(run):
        with run.fault("SCRIPT FLUSH each 50 ms"), run.server.client() as client:
            for _ in range(40):
                client.script_flush()
                run.steady(run.between(0.03, 0.07))

    _before_and_after(run, fault)


OLD_SNAPSHOT = {
    "": {
        "over-admission": KEYS["bucket"]["burst"],
        "over quota": since_saved("quota"),
        "lost charges": since_saved(None),
    }
}

ALL = (
    Scenario(
        "SIGSTOP",
        _stopped,
        "A server that hangs costs no decision its deadline, and admits nobody twice when it goes on.",
        "SIGSTOP for 1.5 to 2.5 s, then SIGCONT",
        direct,
    ),
    Scenario(
        "SIGSTOP, processes count each other",
        _stopped_once_counted,
        "Processes that are given no number know among how many they divide a limit.",
        f"SIGSTOP for 1.5 to 2.5 s, once all processes have run for {COUNTED_AFTER_S:g} s",
        direct,
        policies=("local",),
        options={"replicas": 1},
        is_long=True,
    ),
    Scenario(
        "flaps",
        _flaps,
        "Outages one after the other give nobody more than one that lasts as long as all of them.",
        "SIGSTOP for 0.6 to 0.9 s, three times, with 0.4 to 0.6 s between",
        direct,
    ),
    Scenario(
        "CLIENT PAUSE",
        _paused,
        "A server that accepts commands and carries none out is the same.",
        "CLIENT PAUSE ALL for 1.5 to 2.5 s",
        direct,
    ),
    Scenario(
        "crash, AOF always",
        _crash_with_aof,
        "Nothing is lost, nothing admitted twice.",
        "kill -9, and a start 0.3 to 0.8 s later, with appendfsync always",
        with_log("always"),
    ),
    Scenario(
        "crash, AOF everysec",
        _crash_with_aof,
        "Usually nothing is lost; if the disk is slow, the server holds back what it writes, for up to two seconds.",
        "kill -9, and a start 0.3 to 0.8 s later, with appendfsync everysec",
        with_log("everysec"),
        bounds={
            "": {
                "over-admission": KEYS["bucket"]["burst"],
                "over quota": just_before("quota"),
                "lost charges": just_before(None),
            }
        },
        is_long=True,
    ),
    Scenario(
        "SCRIPT FLUSH",
        _flush_scripts,
        "Scripts that are gone are sent again, within the deadline of the check that finds them gone.",
        "SCRIPT FLUSH, 40 times, each 30 to 70 ms",
        direct,
        bounds={"": {"refused": 0}},
    ),
    Scenario(
        "crash, nothing kept",
        _crash_empty,
        "What is lost is 503, never 403, and admits nobody until it is made anew; then keys start with full limits.",
        "kill -9, a start without data; plans and keys are made anew a second later",
        direct,
        bounds={
            "": {
                "over-admission": KEYS["bucket"]["burst"],
                "over quota": KEYS["quota"]["quota"],
                "lost charges": None,
            },
            "closed": {"admitted without data": 0},
        },
    ),
    Scenario(
        "crash, old snapshot",
        _crash_with_snapshot,
        "As much more may be admitted as was admitted since the snapshot.",
        "SAVE; 0.5 to 1 s later kill -9, and a start from that snapshot",
        direct,
        bounds=OLD_SNAPSHOT,
    ),
    Scenario(
        "LOADING",
        _loading,
        REFUSED,
        f"kill -9, and a start that takes {JUNK * LOAD_US_PER_KEY / 1e6:g} s to load a snapshot",
        direct,
        bounds=OLD_SNAPSHOT,
    ),
    Scenario("BUSY", _busy, REFUSED, "an endless script for 1 to 2 s, then SCRIPT KILL", one_server(lua_time_limit=1)),
    Scenario(
        "READONLY",
        _refusing("REPLICAOF nobody", _become_replica, _become_primary),
        REFUSED,
        "the server is a replica of nobody for 1 to 2 s",
        direct,
    ),
    Scenario(
        "NOAUTH",
        _settings("requirepass", {"requirepass": "another"}, {"requirepass": ""}),
        REFUSED,
        "a password that gateways do not have, for 1 to 2 s; all connections are closed",
        direct,
    ),
    Scenario(
        "MISCONF",
        _refusing("snapshots fail", _break_saving, _mend_saving),
        REFUSED,
        "snapshots fail for 1 to 2 s: the server takes no writes",
        direct,
        is_long=True,
    ),
    Scenario(
        "maxmemory",
        _refusing(
            "maxmemory",
            lambda _run, client: client.config_set("maxmemory", 1),
            lambda _run, client: client.config_set("maxmemory", 0),
        ),
        REFUSED,
        "no memory left for 1 to 2 s, with noeviction",
        direct,
    ),
    Scenario(
        "maxclients",
        _settings("maxclients", {"maxclients": 1}, {"maxclients": 10_000}),
        REFUSED,
        "no connection left for 1 to 2 s",
        direct,
    ),
    Scenario(
        "latency blips, 12 processes",
        _blips,
        "A pause of less than a second is over as soon as it ends, in every process.",
        "CLIENT PAUSE ALL for 60 to 300 ms, three times",
        direct,
        blocking=6,
        asyncio=6,
        replica={"callers": 2, "pace_s": 0.02},
    ),
)
