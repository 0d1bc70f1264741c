"""Bytes in Redis for one caller with a throttle and a daily quota, by the server's own accounts."""

import host
import loading
import ours
import peers_two_limits
from contenders import AMPLE
from progress import steps
from report import Figure
from rich.table import Table

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


def _ours(server, tell):
    with server.client() as client:
        before = _used(client)
        callers = ours.enrol(server.url, AMPLE, CALLERS, progress=tell)
        registered = _used(client)
        with ours.connect(server.url, AMPLE) as call:
            for caller in callers:
                tell()
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


def _peer(server, connect, tell):
    with server.client() as client:
        names = [f"{i:010}" for i in range(CALLERS)]  # as long as the ids of ours
        with connect(server.url, AMPLE) as call:
            call("warm")
            client.delete(*client.keys())
            before = _used(client)
            for name in names:
                tell()
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


def _on(name, tell):
    """A new server for each, so that nobody's leftovers are counted."""
    found = {}
    with host.placed_server(name, host.FREE) as server:
        found[ours.CHECK.name] = _ours(server, lambda by=1: tell(f"{name}: {ours.CHECK.name}", by))
    for peer, connect in peers_two_limits.ALL.items():
        with host.placed_server(name, host.FREE) as server:
            found[peer] = _peer(server, connect, lambda peer=peer: tell(f"{name}: {peer}"))
    return found


def _stored(keys, tell):
    """Keys that are there and were never used: all that Redis holds of them, and each of their parts."""
    with host.placed_server(host.MAIN, host.FREE) as server, server.client() as client:
        ours.enrol(server.url, AMPLE, 0)
        before = _used(client)
        loading.load_keys(client, "check", keys, lambda _: "gold", progress=lambda by: tell("keys are stored", by))
        name, digest = f"check:{{{0:010}}}", f"check:digest:{Digester(None)(loading.value(0))}"
        parts = {"hash": name, "record": f"{name}:record", "index": digest}
        sizes = {part: client.memory_usage(key, samples=0) for part, key in parts.items()}
        lists = sum(client.memory_usage(key, samples=0) for key in ("{check}:keys", "{check}:plan:gold:keys"))
        sizes["lists"] = lists / keys
        return {"keys": keys, "used_memory": (_used(client) - before) / keys, "parts": sizes}


def measure(full=False):
    names, stored = (host.NAMES, 1_000_000) if full else ([host.MAIN], 20_000)
    with steps("memory", len(names) * CALLERS * (2 + len(peers_two_limits.ALL)) + stored) as tell:
        return {"active": {name: _on(name, tell) for name in names}, "stored": _stored(stored, tell)}


def figures(found):
    stored = found["stored"]
    what = f"{host.MAIN}: bytes of a key that is stored, {stored['keys']:,} keys"
    yield Figure(what, stored["used_memory"], "bytes")
    for name, contenders in found["active"].items():
        mine = contenders[ours.CHECK.name]["state"]
        yield Figure(f"{name}: bytes of an active key", mine, "bytes", target=250)
        for which, entered, target in (
            ("the smallest peer with the same two limits", peers_two_limits.SAME_LIMITS, 1.0),
            ("the smallest peer with limits of another kind", peers_two_limits.OTHER_LIMITS, None),
        ):
            least = min(contenders[peer]["state"] for peer in entered)
            yield Figure(f"{name}: bytes of an active key / {which}", mine / least, "x", target=target)


def tables(found):
    for name, contenders in found["active"].items():
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
    stored = found["stored"]
    title = f"bytes in Redis per key that is stored and was never used, {stored['keys']:,} keys ({host.MAIN})"
    table = Table(title=title, title_justify="left")
    for column in ("used_memory", *stored["parts"]):
        table.add_column(column, justify="right")
    table.add_row(f"{stored['used_memory']:,.0f}", *(f"{size:,.0f}" for size in stored["parts"].values()))
    yield table


if __name__ == "__main__":
    from alone import run

    run(measure, figures, tables)
