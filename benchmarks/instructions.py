"""Instructions of the server per check, counted by callgrind: the same on a busy machine and on an idle one.

A server runs under valgrind for 500 checks and another for 1,500; start, connections and first loads are the same in
both, so a thousandth of the difference is what a check costs.
"""

import asyncio
import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import floors
import host
import ours
import peers
import redis
from contenders import AMPLE
from progress import steps
from report import Figure
from rich.table import Table

SHORT, LONG = 500, 1500
AT_ONCE = 50
GATHERED = f"check, {AT_ONCE} at once (asyncio)"
TARGETS = {ours.CHECK.name: 58_000, GATHERED: 28_000}
VALGRIND = shutil.which("valgrind")
SERVER = "redis-system" if host.servers.SYSTEM_REDIS else "redis6"


@contextlib.contextmanager
def _counted():
    """Yield the URL of a server under callgrind, and a list that holds its instructions once it has stopped."""
    with tempfile.TemporaryDirectory(prefix="rl-callgrind-") as folder:
        socket = f"{folder}/redis.sock"
        server = [host.servers.binaries()[SERVER], "--port", "0", "--unixsocket", socket, "--dir", folder]
        options = ["--save", "", "--hz", "1"]  # background work once a second, so that it hardly counts
        valgrind = [VALGRIND, "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        log = Path(folder, "valgrind")
        with log.open("wb") as errors:
            process = subprocess.Popen([*valgrind, *server, *options], stdout=subprocess.DEVNULL, stderr=errors)
        counted = []
        try:
            _wait(socket, process, log)
            yield f"unix://{socket}", counted
        finally:
            process.terminate()
            process.wait(60)
        counted.append(int(re.search(r"Collected : (\d+)", log.read_text())[1]))


def _wait(socket, process, log):
    deadline = time.monotonic() + 60
    with redis.Redis(unix_socket_path=socket) as client:
        while True:
            with contextlib.suppress(redis.RedisError):
                client.ping()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server under valgrind did not start: {log.read_text()}")
            time.sleep(0.05)


def _one_by_one(contender, calls):
    with _counted() as (url, counted):
        (caller,) = contender.enrol(url, AMPLE, 1)
        patience = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY} if contender.kind == "ours" else {}
        with contender.connect(url, AMPLE, **patience) as call:
            right = sum(call(caller) is contender.admits for _ in range(calls))
    assert right == calls, f"{contender.name}: {calls - right} of {calls} calls answered wrongly"
    return counted[0]


def _at_once(_contender, calls):
    async def run(url, caller):
        options = {"deadline": ours.UNDER_VALGRIND, "max_age": ours.ALL_DAY}
        async with ours.aconnect(url, AMPLE, **options) as call:
            right = 0
            for _ in range(calls // AT_ONCE):
                right += sum(await asyncio.gather(*(call(caller) for _ in range(AT_ONCE))))
        assert right == calls, f"{GATHERED}: {calls - right} of {calls} calls were not admitted"

    with _counted() as (url, counted):
        (caller,) = ours.enrol(url, AMPLE, 1)
        asyncio.run(run(url, caller))
    return counted[0]


def measure(full=False):
    if VALGRIND is None:
        return {"absent": "valgrind is not installed, so instructions were not counted", "per_check": {}}
    plain = [floors.INCR, floors.EVALSHA, *ours.ALL, *(peers.ALL if full else peers.MAIN)]
    plan = [(one.name, _one_by_one, one) for one in plain]
    plan.insert(3, (GATHERED, _at_once, None))
    per_check = {}
    with ThreadPoolExecutor(2) as both, steps("instructions", len(plan)) as tell:
        for name, counting, contender in plan:
            tell(name)
            short, long = both.map(counting, (contender, contender), (SHORT, LONG))
            per_check[name] = (long - short) / (LONG - SHORT)
    return {"server": SERVER, "version": _version(), "per_check": per_check}


def _version():
    binary = host.servers.binaries()[SERVER]
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    return "redis " + re.search(r"v=(\S+)", told)[1]


def figures(found):
    for name in (ours.CHECK.name, GATHERED, ours.LAYERS.name, ours.DENIED.name, ours.PEEK.name):
        if name in found["per_check"]:
            what = f"{found['version']}: instructions of the server, {name}"
            yield Figure(what, found["per_check"][name], "", target=TARGETS.get(name))


def tables(found):
    if "absent" in found:
        yield f"[yellow]{found['absent']}"
        return
    check = found["per_check"][ours.CHECK.name]
    table = Table(title=f"instructions of the server per call ({found['version']})", title_justify="left")
    table.add_column("contender")
    table.add_column("instructions", justify="right")
    table.add_column("check / this", justify="right")
    for name, count in found["per_check"].items():
        table.add_row(name, f"{count:,.0f}", f"{check / count:.2f}x" if count else "")
    yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
