"""Keys from a CSV file: keys per second, memory of the importing process, bytes per key in Redis.

The server is the one that the package embeds. Each import runs in a process of its own, whose resident memory is read
before it and at its peak. `python -m benchmarks.suite.import_keys --keys 1000000` takes more keys than the full run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from rich.table import Table

from benchmarks.report.progress import console, steps
from benchmarks.report.results import Figure, save
from benchmarks.suite import host
from ratelimit import Catalog, Quota, Throttle, UsagePlan
from ratelimit.store import clients

FEW_KEYS, KEYS = 10_000, 100_000
MOST_KEYS = 1_000_000
SINGLY = 2_000
PLANS = ("gold", "silver", "trial")
SAMPLE = 1_000
DEADLINE_S = 10.0  # what is measured must not be cut off
SCRIPT_US = 500  # scripts that take longer are in the server's slow log
RUNS = {
    "new keys": ("import", []),
    "the same file again": ("import", []),
    "new keys, fail_on_warnings": ("checked", ["--fail-on-warnings"]),
}


def write_file(path, keys):
    """A file as it would come from AWS: all columns, some keys disabled, some in two plans."""
    with path.open("w", encoding="utf-8") as file:
        file.write("name,key,description,enabled,usageplanIds\n")
        for i in range(keys):
            plans = '"gold,trial"' if i % 10 == 0 else PLANS[i % 2]
            file.write(f"Tenant {i},bench{i:027}AbCdEfGh,imported for the benchmark,{i % 50 != 0},{plans}\n")


def _catalog(url, namespace):
    return Catalog(clients.client_from_url(url, DEADLINE_S), namespace=namespace)


def _resident(field):
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no field {field}")


def child(options):
    """Import once, and print figures as JSON lines: the rows done now and then, the result last."""
    catalog = _catalog(options.url, options.namespace)
    reports = count()
    before = _resident("VmRSS")
    began, cpu = time.perf_counter(), time.process_time()
    report = catalog.import_keys(
        options.file,
        options.fail_on_warnings,
        lambda done: print(json.dumps(done), flush=True) if next(reports) % 50 == 0 else None,
    )
    result = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "created": report.created,
        "updated": report.updated,
        "warnings": len(report.warnings),
        "before": before,
        "peak": _resident("VmHWM"),
    }
    print(json.dumps(result))


def _run(server, path, namespace, arguments, step):
    command = [sys.executable, "-m", __spec__.name, "--child", "--url", server.url, "--namespace", namespace]
    command += ["--file", str(path), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=host.ROOT) as process:
        done = 0
        for line in process.stdout:
            progress = json.loads(line)
            if isinstance(progress, int):
                step(progress - done)
                done = progress
    if process.returncode:
        raise RuntimeError("the import failed, see above")
    return progress


def _stored(client, namespace, keys, before):
    """Bytes per key in Redis: of all, and of each of the parts that belong to one key (of the first ones found)."""
    parts = {}
    used = (client.info("memory")["used_memory"] - before) / keys
    for part, pattern in (("record", "*:record"), ("index", "digest:*"), ("state", "{*}")):
        names = client.scan_iter(f"{namespace}:{pattern}", count=SAMPLE)
        sizes = [client.memory_usage(name, samples=0) for name, _ in zip(names, range(SAMPLE), strict=False)]
        parts[part] = sum(sizes) / len(sizes)
    parts["lists"] = sum(
        client.memory_usage(f"{{{namespace}}}:{name}", samples=0) or 0
        for name in ("keys", *(f"plan:{plan}:keys" for plan in PLANS))
    )
    parts["lists"] /= keys
    return {"used_memory": used, "parts": parts, "keys": client.dbsize()}


def measure(full=False, keys=None):
    keys = keys or (KEYS if full else FEW_KEYS)
    result = {"keys": keys, "runs": {}}
    with (
        host.placed_server(host.MAIN, host.FREE) as server,
        tempfile.TemporaryDirectory() as folder,
        server.client() as client,
        steps("import", len(RUNS) * keys + SINGLY) as step,
    ):
        path = Path(folder, "keys.csv")
        write_file(path, keys)
        result["file"] = path.stat().st_size
        for namespace in {namespace for namespace, _ in RUNS.values()}:
            for number, plan in enumerate(PLANS):
                stage = f"petstore/{number}"
                _catalog(server.url, namespace).put_plan(
                    UsagePlan(plan, Throttle(10, 20), Quota(10_000, "DAY"), [stage])
                )
        client.config_set("slowlog-log-slower-than", SCRIPT_US)
        client.config_set("slowlog-max-len", 100_000)
        before = client.info("memory")["used_memory"]
        for name, (namespace, options) in RUNS.items():
            client.slowlog_reset()
            client.config_resetstat()
            one = _run(server, path, namespace, options, lambda by, name=name: step(name, by))
            stats = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec_per_call": 0})
            slow = [entry["duration"] for entry in client.slowlog_get(100_000)]
            one |= {"scripts": stats["calls"], "script_us": stats["usec_per_call"], "longest_us": max(slow, default=0)}
            result["runs"][name] = one
            if name == "new keys":
                client.slowlog_reset()
                result["stored"] = _stored(client, namespace, keys, before)
        catalog = _catalog(server.url, "import")
        began = time.perf_counter()
        for _ in range(SINGLY):
            catalog.create_key(plans=["gold"])
        result["create_key"] = SINGLY / (time.perf_counter() - began)
        step("create_key", SINGLY)
    return result


def figures(result):
    new = result["runs"]["new keys"]
    yield Figure("import: keys per second", result["keys"] / new["seconds"], "/s", better="higher")
    yield Figure("import: CPU per key", new["cpu"] / result["keys"] * 1e6, "us")
    yield Figure("import: growth of the process", (new["peak"] - new["before"]) / result["keys"], "bytes per key")
    yield Figure("import: longest script", new["longest_us"], "us")
    yield Figure("bytes in Redis per key that is stored", result["stored"]["used_memory"], "bytes")


def _longest(one):
    if not one["scripts"]:
        return "none"
    return f"{one['longest_us']:,}" if one["longest_us"] else f"< {SCRIPT_US}"


def tables(result):
    keys, size = result["keys"], result["file"]
    title = f"import of {keys:,} keys from a file of {size / 2**20:.1f} MiB"
    table = Table(title=title, title_justify="left")
    table.add_column("run", no_wrap=True)
    columns = (
        "keys/s",
        "seconds",
        "CPU us/key",
        "created",
        "updated",
        "MiB before",
        "MiB at peak",
        "script us, mean",
        "longest",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, one in result["runs"].items():
        table.add_row(
            name,
            f"{keys / one['seconds']:,.0f}",
            f"{one['seconds']:.1f}",
            f"{one['cpu'] / keys * 1e6:.0f}",
            f"{one['created']:,}",
            f"{one['updated']:,}",
            f"{one['before'] / 2**20:.1f}",
            f"{one['peak'] / 2**20:.1f}",
            f"{one['script_us']:,.0f}" if one["scripts"] else "none",
            _longest(one),
        )
    table.add_row(f"create_key, {SINGLY:,} times", f"{result['create_key']:,.0f}", *[""] * 8)
    yield table
    stored = result["stored"]
    table = Table(title=f"bytes in Redis per key, {keys:,} keys that were never used", title_justify="left")
    for column in ("used_memory", *stored["parts"]):
        table.add_column(column, justify="right")
    table.add_row(f"{stored['used_memory']:,.0f}", *(f"{part:,.0f}" for part in stored["parts"].values()))
    yield table


def main():
    parser = argparse.ArgumentParser(prog=f"python -m {__spec__.name}", description=__doc__.partition("\n")[0])
    parser.add_argument("--keys", type=int, default=KEYS, help=f"rows of the file, at most {MOST_KEYS:,}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    for option in ("--url", "--namespace", "--file"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.add_argument("--fail-on-warnings", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    if not 1 <= options.keys <= MOST_KEYS:
        parser.error(f"--keys must be from 1 to {MOST_KEYS:,}")
    machine = host.description() | {"servers": host.server_descriptions(), "full": True}
    console.print(host.in_words(machine), markup=False, highlight=False)
    result = measure(keys=options.keys)
    for table in tables(result):
        console.print(table)
    console.print(f"written: {save({'import_keys': result}, list(figures(result)), machine)}")


if __name__ == "__main__":
    main()
