"""Bytes in Redis for one caller with a throttle and a daily quota, by the server's own accounts."""

from rich.table import Table

from benchmarks.contenders import loading, ours, peers_two_limits
from benchmarks.contenders.contender import AMPLE
from benchmarks.report import plots
from benchmarks.report.progress import steps
from benchmarks.report.results import Figure
from benchmarks.suite import host
from ratelimit.registry.key_values import Digester

CALLERS = 10_000


def _used(client):
    return client.info("memory")["used_memory"]


def _of_each(client, pattern):
    """Bytes of all keys that match, for each caller: MEMORY USAGE with the name, of every one, for they differ."""
    with client.pipeline(transaction=False) as pipe:
        for name in client.scan_iter(pattern, count=CALLERS):
            pipe.memory_usage(name, samples=0)
        return sum(pipe.execute()) / CALLERS


def _ours(server, step):
    with server.client() as client:
        before = _used(client)
        callers = ours.enrol(server.url, AMPLE, CALLERS, progress=step)
        registered = _used(client)
        with ours.connect(server.url, AMPLE) as call:
            for caller in callers:
                step()
                call(caller)
            active = _used(client)
        patterns = {"state": "check:{*}", "record": "check:{*}:record", "index": "check:digest:*"}
        parts = {part: _of_each(client, pattern) for part, pattern in patterns.items()}
    return {
        "state": parts["state"],
        "parts": parts,
        "used_memory": (active - before) / CALLERS,
        "of_which_by_checks": (active - registered) / CALLERS,
        "keys": len(parts),
    }


def _peer(server, connect, step):
    with server.client() as client:
        names = [f"{i:010}" for i in range(CALLERS)]  # as long as the ids of ours
        with connect(server.url, AMPLE) as call:
            call("warm")
            client.delete(*client.keys())
            before = _used(client)
            for name in names:
                step()
                call(name)
            active = _used(client)
            keys = client.dbsize() / CALLERS
        state = _of_each(client, "*")
    return {
        "state": state,
        "parts": {"state": state},
        "used_memory": (active - before) / CALLERS,
        "of_which_by_checks": (active - before) / CALLERS,
        "keys": round(keys),
    }


def _all_on(name, step):
    """A new server for each, so that nobody's leftovers are counted."""
    results = {}
    with host.placed_server(name, host.FREE) as server:
        results[ours.CHECK.name] = _ours(server, lambda by=1: step(f"{name}: {ours.CHECK.name}", by))
    for peer, connect in peers_two_limits.ALL.items():
        with host.placed_server(name, host.FREE) as server:
            results[peer] = _peer(server, connect, lambda peer=peer: step(f"{name}: {peer}"))
    return results


def _stored(keys, step):
    """Keys that are stored and were never used: all that Redis holds of them, and each of their parts."""
    with host.placed_server(host.MAIN, host.FREE) as server, server.client() as client:
        ours.enrol(server.url, AMPLE, 0)
        before = _used(client)
        loading.load_keys(client, "check", keys, lambda _: "gold", progress=lambda by: step("keys are stored", by))
        name, digest = f"check:{{{0:010}}}", f"check:digest:{Digester(None)(loading.value(0))}"
        parts = {"hash": name, "record": f"{name}:record", "index": digest}
        sizes = {part: client.memory_usage(key, samples=0) for part, key in parts.items()}
        lists = sum(client.memory_usage(key, samples=0) for key in ("{check}:keys", "{check}:plan:gold:keys"))
        sizes["lists"] = lists / keys
        return {"keys": keys, "used_memory": (_used(client) - before) / keys, "parts": sizes}


def measure(full=False):
    names, stored = (host.NAMES, 1_000_000) if full else ([host.MAIN], 20_000)
    with steps("memory", len(names) * CALLERS * (2 + len(peers_two_limits.ALL)) + stored) as step:
        return {"active": {name: _all_on(name, step) for name in names}, "stored": _stored(stored, step)}


def figures(result):
    stored = result["stored"]
    what = f"{host.MAIN}: bytes of a key that is stored, {stored['keys']:,} keys"
    yield Figure(what, stored["used_memory"], "bytes")
    for name, contenders in result["active"].items():
        check = contenders[ours.CHECK.name]["state"]
        yield Figure(f"{name}: bytes of an active key", check, "bytes", target=250)
        for which, chosen, target in (
            ("the smallest peer with the same two limits", peers_two_limits.SAME_LIMITS, 1.0),
            ("the smallest peer with limits of another kind", peers_two_limits.OTHER_LIMITS, None),
        ):
            least = min(contenders[peer]["state"] for peer in chosen)
            yield Figure(f"{name}: bytes of an active key / {which}", check / least, "x", target=target)


def tables(result):
    for name, contenders in result["active"].items():
        title = f"bytes in Redis for a caller with a throttle and a daily quota ({name})"
        table = Table(title=title, title_justify="left")
        table.add_column("contender")
        table.add_column("the same limits")
        for column in ("state, MEMORY USAGE", "Redis keys", f"used_memory, {CALLERS:,} callers", "of it by checks"):
            table.add_column(column, justify="right")
        for contender, one in contenders.items():
            table.add_row(
                contender,
                "no" if contender in peers_two_limits.OTHER_LIMITS else "yes",
                f"{one['state']:,.0f}",
                f"{one['keys']}",
                f"{one['used_memory']:,.0f}",
                f"{one['of_which_by_checks']:,.0f}",
            )
        yield table
    stored = result["stored"]
    title = f"bytes in Redis per key that is stored and was never used, {stored['keys']:,} keys ({host.MAIN})"
    table = Table(title=title, title_justify="left")
    for column in ("used_memory", *stored["parts"]):
        table.add_column(column, justify="right")
    table.add_row(f"{stored['used_memory']:,.0f}", *(f"{size:,.0f}" for size in stored["parts"].values()))
    yield table


def plot(plt, result):
    name, contenders = next(iter(result["active"].items()))
    figure, axes = plt.subplots(figsize=(8, 2.6))
    plots.bars(axes, {contender: one["state"] for contender, one in contenders.items()}, "bytes, MEMORY USAGE")
    axes.set_title(f"State of a caller with a throttle and a daily quota ({name})", loc="left")
    return figure
