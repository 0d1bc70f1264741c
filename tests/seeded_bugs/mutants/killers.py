"""What tells a mutant from the scripts as they are: the vectors, histories by the exact model, checks at once.

The first two are commands that are packed once and sent in one go to a real server; of a mutant only the hash differs.
"""

import json
from collections.abc import Callable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from helpers.lua_tools import PlainServer, hexed, plain_state
from helpers.servers import Server
from helpers.worlds import PLAIN_NOW, Plain, Real, completed, needlessly_left_out, one_by_one, told_at_once
from lupa.lua51 import LuaError
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as TimedOutError
from seeded_bugs.mutants.batches import World
from seeded_bugs.mutants.histories import NAMES, History
from vectors.packing import NOW, version_token

from ratelimit import scripts

LONGEST_S, LONGEST = 5, 10_000_000
"""More seconds, and instructions, than any script takes: what has not ended by then never does."""
IN_A_HALF_MINUTE = NOW + 10_000_000
HISTORIES, REAL_WORLDS, PLAIN_WORLDS = 200, 40, 400


class EndlessError(Exception):
    """A mutant does not end."""


@dataclass(frozen=True)
class Tape:
    """Commands that are sent in one go. `judge` takes the replies and says whether they are right."""

    packed: bytes
    size: int
    judge: Callable[[list[Any]], bool]


class Killers:
    """All that is asked of a mutant before whole tests are."""

    def __init__(self):
        self._start()
        self._sha = scripts.load("check").sha.encode()
        self._vectors = [self._vector(each) for each in vectors()]
        self._plain_vectors = [plain_vector(each) for each in vectors()]
        self._histories = [self._history(History(seed)) for seed in range(HISTORIES)]
        self._real_worlds = [
            (world, self._alone(world)) for world in worlds(REAL_WORLDS, IN_A_HALF_MINUTE, IN_A_HALF_MINUTE)
        ]
        self._plain_worlds = [(world, plain_alone(world)) for world in worlds(PLAIN_WORLDS, PLAIN_NOW, 0)]

    def _start(self):
        self._server = Server("valkey", save="")
        self._client = self._server.client(socket_timeout=LONGEST_S)
        self._connection = self._client.connection_pool.get_connection()

    def stop(self):
        self._server.process.kill()
        self._client.close()
        self._server.stop()

    # Made once

    def _tape(self, commands, judge):
        packed = b"".join(self._connection.pack_commands(commands))
        return Tape(packed, len(commands), judge)

    def _vector(self, vector):
        """A vector: what it writes, the check, and all that the server holds then."""
        arguments = [bytes.fromhex(part) for part in vector["argv"]]
        commands = [("FLUSHALL",), *map(written, vector["before"].items())]
        at = len(commands)
        commands.append(("EVALSHA", self._sha, len(vector["keys"]), *vector["keys"], *arguments))
        after = {name: as_held(value) for name, value in vector["after"].items()}
        commands += [("DBSIZE",), *(reading(*item) for item in after.items()), *(("PTTL", name) for name in after)]
        expected = [vector.get("reply", vector.get("error")), len(after), *after.values(), *[-1] * len(after)]

        def is_right(replies):
            reply, size, *held = replies[at:]
            held[: len(after)] = map(as_read, held, after.values())
            return [hexed(reply), size, *held] == expected

        return self._tape(commands, is_right)

    def _history(self, history):
        """A history: its checks, then all that the server holds. What the scripts reply is held to the model once."""
        commands = [("FLUSHALL",)]
        if not history.is_of_identities:
            commands += [("HSET", NAMES.key_hash(caller), "r", version_token()) for caller in history.callers]
        first = len(commands)
        for each in history.asked:
            commands.append(("EVALSHA", self._sha, len(each.keys), *each.keys, *each.arguments))
        names = sorted(history.expected)
        commands.append(("DBSIZE",))
        commands += [reading(name, history.expected[name]) for name in names]
        last = first + len(history.asked)

        def is_right(replies):
            if not all(each.judge(reply) for each, reply in zip(history.asked, replies[first:last], strict=True)):
                return False
            expected = map(history.expected.get, names)
            held = dict(zip(names, map(as_read, replies[last + 1 :], expected), strict=True))
            return replies[last] == len(names) and history.is_stored(held)

        tape = self._tape(commands, is_right)
        self._client.script_load(scripts.load("check").source)
        known = self._send(tape, self._sha)
        if not is_right(known):
            raise SystemExit(f"mutants: check.lua is not what the model says in history {history.seed}")
        # What the scripts said is right: only what differs has to be understood.
        return Tape(tape.packed, tape.size, lambda replies: replies == known or is_right(replies))

    def _alone(self, world):
        state, asked = world
        alone = Real(self._client, state)
        return one_by_one(alone.ask, asked), alone.held()

    # Asked of each mutant

    def killer(self, script):
        """Return what finds that a script is not as it was, None if nothing does."""
        try:
            with self._restarted_if_endless():
                try:
                    self._client.script_load(scripts.load(script).source)
                except ResponseError:
                    return "the server refuses it"
                for name, killer in self._killers(script, scripts.load(script).sha.encode()):
                    if not killer():
                        return name
        except EndlessError:
            return "it does not end"
        return None

    def _killers(self, script, sha):
        if script == "check":
            yield "vectors", lambda: all(tape.judge(self._send(tape, sha)) for tape in self._vectors)
            yield "vectors", lambda: are_right_on_a_dict(self._plain_vectors)
            yield "histories", lambda: all(tape.judge(self._send(tape, sha)) for tape in self._histories)
        elif script == "check_many":
            yield "checks at once", lambda: all(map(self._is_same_at_once, self._real_worlds))
            yield "checks at once", self._are_same_on_a_dict

    def _send(self, tape, sha):
        connection = self._connection
        connection.send_packed_command([tape.packed.replace(self._sha, sha)])
        return [response(connection) for _ in range(tape.size)]

    def _is_same_at_once(self, case):
        (state, asked), expected = case
        return is_same(Real(self._client, state), state, asked, expected)

    def _are_same_on_a_dict(self):
        plain = Plain({})
        plain.end_after(LONGEST)
        for (state, asked), expected in self._plain_worlds:
            plain.hold(state)
            if not is_same(plain, state, asked, expected):
                return False
        return True

    @contextmanager
    def _restarted_if_endless(self):
        try:
            yield
        except (TimedOutError, LostError) as error:
            self.stop()
            self._start()
            raise EndlessError from error
        finally:
            with self._server.client() as client:
                client.script_flush()


def vectors():
    """All vectors, as the file has them."""
    return json.loads((scripts.folder() / "vectors.json").read_text(encoding="utf-8"))["vectors"]


def response(connection):
    try:
        return connection.read_response()
    except ResponseError as error:
        return str(error)


def written(item):
    """The command that writes one key of a vector."""
    name, value = item
    if isinstance(value, dict):
        return "HSET", name, *(part for each, text in value.items() for part in (each, bytes.fromhex(text)))
    if isinstance(value, list):
        return "ZADD", name, *(part for member in value for part in ("inf", member))
    return "SET", name, bytes.fromhex(value)


def as_held(value):
    """What a key of a vector holds: bytes, a dict, a list of members, a list of entries."""
    if isinstance(value, dict):
        return {name.encode(): bytes.fromhex(part) for name, part in value.items()}
    if isinstance(value, list):
        return [entry.encode() if isinstance(entry, str) else flat(entry) for entry in value]
    return bytes.fromhex(value)


def flat(entry):
    return tuple(text.encode() for item in entry.items() for text in item)


def reading(name, value):
    """The command that reads a key which should hold such a value."""
    if isinstance(value, dict):
        return "HGETALL", name
    if isinstance(value, list):
        return ("ZRANGE", name, 0, -1) if isinstance(value[0], bytes) else ("XRANGE", name, "-", "+")
    return "GET", name


def as_read(reply, value):
    """The reply to `reading`, in the form of `value`."""
    if not isinstance(reply, list) or isinstance(value, bytes):
        return reply
    if isinstance(value, dict):
        return dict(zip(reply[::2], reply[1::2], strict=True))
    return reply if isinstance(value[0], bytes) else [tuple(entry) for _, entry in reply]


def plain_vector(vector):
    """(state, KEYS, ARGV, reply or error, state after it) for `PlainServer`."""
    keys, arguments = [key.encode() for key in vector["keys"]], [bytes.fromhex(part) for part in vector["argv"]]
    reply = vector.get("reply", vector.get("error"))
    return plain_state(vector["before"]), keys, arguments, reply, plain_state(vector["after"])


def are_right_on_a_dict(cases):
    """Whether the vectors hold there, where plain Lua stands in for `struct`."""
    server = PlainServer({})
    server.end_after(LONGEST)
    for before, keys, arguments, reply, after in cases:
        server.state = deepcopy(before)
        try:
            if hexed(server.eval(keys, arguments)) != reply or server.state != after:
                return False
        except (LuaError, TypeError, AssertionError):
            return False
    return True


def worlds(number, *clock):
    """(state, checks) of so many worlds, always the same."""
    made = [World(seed, *clock) for seed in range(number)]
    return [(world.state, world.asked) for world in made]


def is_same(world, state, asked, expected):
    """Whether checks at once get and leave what they do one by one."""
    try:
        replies = told_at_once(world.ask, asked)
        return (
            not needlessly_left_out(state, asked, replies, expected[0])
            and (completed(world.ask, asked, replies), world.held()) == expected
        )
    except (AssertionError, LuaError, TypeError):
        return False


def plain_alone(world):
    state, asked = world
    alone = Plain(state)
    return one_by_one(alone.ask, asked), alone.held()
