"""The Lua sources keep what their first comments say, and the rules that all scripts share."""

import ast
import json
import re
import struct

import pytest
from helpers import lua_tools
from helpers.lua_bytecode import compiled, executable_lines, global_accesses
from helpers.lua_lint import GLOBALS
from helpers.lua_tools import (
    PlainServer,
    code,
    contract,
    entry_names,
    header_faults,
    hexed,
    passage_names,
    plain_state,
    source,
)

import ratelimit
from ratelimit import scripts
from ratelimit.scripts import expanded, folder, load

SCRIPTS = entry_names()
PARTS = sorted(f"lib/{path.stem}" for path in (folder() / "lib").glob("*.lua"))
PASSAGES = sorted(f"inline/{path.stem}" for path in (folder() / "inline").glob("*.lua"))
VECTORS = json.loads((folder() / "vectors.json").read_text(encoding="utf-8"))["vectors"]
TEXTS = ("'", "ARGV[", "KEYS[", "string.sub(", "string.rep(", "struct.pack(", "pack_doubles(")
TEXTS += ("field_or_key)", "field)", "plan_field)", "name)", "new_name)")
SERVERS_CLOCK = [
    "local time = call('TIME')",
    "now = time[1] * 1000000 + time[2]",
    "local milliseconds = (2 * EXPIRY_STEP_US + fill_us[i]) / 1000",
    "call('SET', bucket_key, state, 'PX', milliseconds - milliseconds % 1)",
    "call('SETRANGE', bucket_key, '0', state)",
    "ends_us = now + milliseconds * 1000",
    "redis.pcall('ZREMRANGEBYSCORE', counted, '-inf', now)",
]
"""The lines of check.lua that run without a caller's clock alone, and so under no vector."""
DIRECTIVE = re.compile(r"^ *-- @(include|inline) (\S+)$", re.MULTILINE)


@pytest.fixture(params=SCRIPTS)
def script(request):
    return request.param


def test_a_file_starts_with_its_name_and_purpose():
    """The first line of every source is "-- <name>: <what it does>"."""
    for path in (*SCRIPTS, *PARTS, *PASSAGES):
        assert re.match(rf"-- {path.rpartition('/')[2]}: \w.*\n", source(path)), path


def test_a_header_follows_the_grammar(script):
    """Purpose, KEYS, ARGV, returns, errors, sentences; then the parts that the whole script needs."""
    assert header_faults(script, source(script)) == []


HEADER = """\
-- x: does something.
--
-- KEYS[1]    a
-- KEYS[2..]  b
-- ARGV[1]    c,
--            and d
-- returns    1
-- errors     RATELIMIT E

-- @include lib/a
-- @include lib/b

return 1
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("-- x: does", "-- y: does"),
        ("something.", "something"),
        ("something.\n--\n", "something.\n"),
        ("-- KEYS[1]    a\n-- KEYS[2..]  b\n", ""),
        ("-- returns    1\n", ""),
        ("-- returns    1\n", "-- replies    1\n"),
        ("-- returns    1\n-- errors     RATELIMIT E\n", "-- errors     RATELIMIT E\n-- returns    1\n"),
        ("KEYS[1] ", "KEYS[2] "),
        ("KEYS[2..]", "KEYS[3..]"),
        ("ARGV[1]", "ARGV[2]"),
        ("\n\n-- @include lib/a", "\nlocal a\n\n-- @include lib/a"),
        ("-- @include lib/b\n", "local a\n-- @include lib/b\n"),
    ],
)
def test_a_header_with_a_fault_is_noticed(right, wrong):
    """Each rule of the grammar can fail."""
    assert header_faults("x", HEADER) == []
    assert HEADER.count(right) == 1
    assert len(header_faults("x", HEADER.replace(right, wrong))) == 1


@pytest.mark.parametrize("passage", PASSAGES)
def test_a_passage_names_what_it_takes_from_its_caller(passage):
    """A local that it reads or assigns without declaring it is in its header, and no other one is."""
    reads, leaves = passage_names(passage)
    read, written = global_accesses(expanded(passage))
    assert written == leaves
    assert {name for name in read - written - GLOBALS - offered() if not name.isupper()} == reads - leaves


@pytest.mark.parametrize("part", PARTS)
def test_a_function_takes_nothing_from_its_caller(part):
    """What is in lib/ uses constants and other functions of lib/ alone."""
    read, written = global_accesses(expanded(part))
    assert {name for name in read - GLOBALS - offered() if not name.isupper()} == set()
    assert written == set()


def offered():
    """The names that files of lua/lib define for a whole script."""
    return {local.name for part in PARTS for local in compiled(source(part)).locals}


def further_buckets(vector):
    """How many buckets a request of the vectors meets besides the plan's own."""
    (flags,) = struct.unpack_from("<d", bytes.fromhex(vector["argv"][0]), 24)
    has_key, has_last_key = flags % 2, flags % 16 // 8 + flags % 256 // 128
    other_fields = flags % 8 // 4 + flags % 32 // 16 + 2 * (flags // 256)
    own = len(vector["argv"]) - 2 - other_fields if has_key else 0
    return int(own + len(vector["keys"]) - has_key - has_last_key)


def limits_of(vector):
    """How many limits a request of the vectors meets."""
    per, quota = struct.unpack_from("<2d", bytes.fromhex(vector["argv"][0]), 48)
    return (per > 0) + further_buckets(vector) + (quota >= 0)


def test_the_contract_names_the_indices_that_the_code_uses(script):
    """Each KEYS[n] and ARGV[n] of the code is in the header and the reverse; "[n..]" and the rest are computed."""
    body = code(expanded(script))
    for kind, documented in contract(script).indices.items():
        used = set(re.findall(rf"\b{kind}\[([^\]]+)\]", body))
        literal = {index for index in used if index.isdigit()}
        fixed = {index for index in documented if index.isdigit()}
        computed = used != literal or f"unpack({kind}" in body
        assert literal <= fixed, kind
        assert computed == bool(documented - literal), kind


def test_the_contract_names_the_errors_that_the_code_returns(script):
    """The texts of the header are the texts of the code."""
    returned = re.findall(r"error_reply\(\s*['\"]([^'\"]*)['\"]", code(expanded(script)))
    assert {text.strip() for text in returned} == contract(script).errors


def test_the_replies_of_check_have_the_arity_of_the_contract():
    """Every status of the header is among the vectors, and each reply is as long as the header says.

    One of joined states has the plan's 56 bytes and 24 for each further bucket; one that tells of limits 16 for each.
    """
    replies = contract("check").replies
    assert replies == {**dict.fromkeys(range(5), (3, 0)), **dict.fromkeys((-1, -2, -3, -4, -6), (2, 0))}
    assert contract("check_many").replies == {0: replies[0]}
    seen = set()
    for vector in (vector for vector in VECTORS if "reply" in vector):
        reply = vector["reply"]
        if isinstance(reply, str):
            assert len(bytes.fromhex(reply)) == 56 + 24 * further_buckets(vector), vector["name"]
            assert vector["means"][0] == 1
            continue
        assert len(reply) == replies[reply[0]][0], vector["name"]
        if "means" in vector:
            assert len(bytes.fromhex(reply[2])) == 16 * limits_of(vector), vector["name"]
            per_limit = 3 if reply[0] in {0, 3, 4} else 2
            assert len(vector["means"]) == 2 + per_limit * limits_of(vector), vector["name"]
        seen.add(reply[0])
    assert seen == set(replies)


def test_the_errors_of_check_are_all_in_the_vectors():
    """Every error text of the header is what some vector expects."""
    expected = {" ".join(vector["error"].split()[:2]) for vector in VECTORS if "error" in vector}
    assert expected == contract("check").errors


def test_the_replies_of_commit_have_the_arity_of_the_contract(backend):
    """{1, 0} when applied; {0, guard} with the first guard that failed, and nothing is written."""
    assert contract("commit").replies == {1: (2, 0), 0: (2, 0)}
    commit = load("commit").source
    with backend.client() as client:
        client.hset("h", "f", "old")
        guards, commands = [[1, "f", "old"], [2, None, None]], [["SET", 2, "new"], ["HDEL", 1, "f"]]
        assert client.eval(commit, 2, "h", "s", json.dumps(guards), json.dumps(commands)) == [1, 0]
        assert (client.get("s"), client.exists("h")) == (b"new", 0)
        again = [["SET", 2, "newer"]]
        assert client.eval(commit, 2, "h", "s", json.dumps(guards), json.dumps(again)) == [0, 1]
        assert client.eval(commit, 2, "h", "s", json.dumps([guards[1]]), json.dumps(again)) == [0, 1]
        held = [[2, None, "new"], [1, "f", None], [2, None, "other"]]
        assert client.eval(commit, 2, "h", "s", json.dumps(held), json.dumps(again)) == [0, 3]
        assert client.get("s") == b"new"


def test_every_part_is_used():
    """Each file of lua/lib is part of some script, and in no script twice; each of lua/inline is spliced somewhere."""
    used = set()
    for name in SCRIPTS:
        text = expanded(name)
        for part in (*PARTS, *PASSAGES):
            count = text.count(source(part).splitlines()[0])
            assert count <= 1 or part in PASSAGES, (name, part)
            used |= {part} if count else set()
    assert used == {*PARTS, *PASSAGES}


def test_every_directive_resolves():
    """`@include` names a file of lua/lib, `@inline` one of lua/inline, and no script is left with either."""
    for path in (*SCRIPTS, *PARTS, *PASSAGES):
        for kind, part in DIRECTIVE.findall(source(path)):
            assert part in {"include": PARTS, "inline": PASSAGES}[kind], (path, part)
    assert [name for name in SCRIPTS if DIRECTIVE.search(expanded(name))] == []


def test_a_part_comes_once_and_a_passage_wherever_it_is_named(tmp_path, monkeypatch):
    """However deep the line that names it stands."""
    monkeypatch.setattr(scripts, "folder", lambda: tmp_path)
    for name, text in {
        "a": "-- @include f\nif x then\n  -- @inline p\nend\n-- @inline p\n-- @include f\n",
        "f": "function\n-- @inline p\n",
        "p": "passage",
    }.items():
        (tmp_path / f"{name}.lua").write_text(text)
    assert expanded("a").split() == ["function", "passage", "if", "x", "then", "passage", "end", "passage"]


def test_no_global_is_written_and_none_is_unknown(script):
    """By the compiler's own listing: servers would refuse both, but only when that line runs."""
    read, written = global_accesses(expanded(script))
    assert written == set()
    assert read - GLOBALS == set()


def test_the_listing_of_globals_sees_them():
    """The listing finds reads and writes in nested functions, so the test above can fail."""
    text = "local a = b; local function f() c = d; return function() return e.f end end; return f"
    assert global_accesses(text) == ({"b", "d", "e"}, {"c"})


def test_every_script_loads_under_its_own_hash(backend, script):
    """SCRIPT LOAD accepts it on every server, and knows it by the hash that EVALSHA will name."""
    with backend.client() as client:
        assert client.script_load(load(script).source) in {load(script).sha, load(script).sha.encode()}


def test_the_scripts_are_sent_as_they_are_written(script):
    """Nothing is formatted into a script: each of its lines stands in a file of lua/."""
    written = {line for path in (*SCRIPTS, *PARTS, *PASSAGES) for line in source(path).splitlines()}
    assert [line for line in load(script).source.splitlines() if line not in written] == []


def test_no_lua_hides_in_python():
    """No text in the package calls Redis from Lua: what runs on the server is in lua/ alone."""
    package = folder().parent / "ratelimit" if (folder().parent / "ratelimit").is_dir() else folder().parent
    assert (package / "__init__.py").samefile(ratelimit.__file__)
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"redis\.p?call|KEYS\[|ARGV\[\d\] *=", node.value), (path.name, node.lineno)


def test_large_numbers_never_become_text_by_accident(script):
    """Lua's tostring and `..` keep 14 digits: what is joined to a text is text, never a number that was computed."""
    body = code(expanded(script))
    assert "tostring" not in body
    joined = re.findall(r"(?<!\.)\.\.(?!\.)\s*([^\n]+)", body)
    assert [part for part in joined if not part.lstrip("(").startswith(TEXTS)] == []
    formats = re.findall(r"string\.format\(\s*'([^']*)'", body)
    assert {directive for text in formats for directive in re.findall(r"%[^a-z]*[a-z]", text)} <= {"%s", "%.0f"}
    assert body.count("string.format(") == len(formats)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_check_touches_no_key_that_it_was_not_given(vector):
    """Run on a dict: the reply is right, every key is one of KEYS, every command one that the contract permits."""
    server = PlainServer(plain_state(vector["before"]))
    keys = [key.encode() for key in vector["keys"]]
    reply = server.eval(keys, [bytes.fromhex(part) for part in vector["argv"]])
    assert hexed(reply) == vector.get("reply", vector.get("error"))
    assert server.state == plain_state(vector["after"])
    assert {key for _, key, *_ in server.calls} <= set(keys)
    assert {command for command, *_ in server.calls} <= {
        "HMGET",
        "HSET",
        "HGET",
        "HGETALL",
        "HDEL",
        "GET",
        "SET",
        "XADD",
        "ZCOUNT",
        "ZADD",
    }


def test_the_server_clock_is_read_once():
    """Without a caller's clock the script asks TIME, one time, before anything else."""
    vector = next(vector for vector in VECTORS if vector["name"].startswith("layers: plan, stage, account"))
    arguments = [bytes.fromhex(part) for part in vector["argv"]]
    arguments[0] = bytes(8) + arguments[0][8:]
    server = PlainServer(plain_state(vector["before"]))
    reply = server.eval([name.encode() for name in vector["keys"]], arguments)
    assert reply[:2] == [1, 1_772_625_600_123_456]
    assert server.calls[0] == ("TIME",)
    assert server.calls.count(("TIME",)) == 1


def test_every_line_of_check_runs_under_some_vector():
    """The vectors leave no line of check.lua and of what it includes untried, but those of the server's clock."""
    ran = set()
    for vector in VECTORS:
        server = PlainServer(plain_state(vector["before"]))
        server.watch_lines()
        server.eval([key.encode() for key in vector["keys"]], [bytes.fromhex(part) for part in vector["argv"]])
        ran |= server.lines
    text = expanded("check")
    missing = [text.splitlines()[number - 1].strip() for number in sorted(executable_lines(text) - ran)]
    assert missing == SERVERS_CLOCK


def test_tools_see_a_contract_that_drifts(monkeypatch):
    """The header of a script that uses what it does not name reads differently from its code."""
    drifted = "-- x: y\n--\n-- KEYS[1]  a\n-- returns  {1, a, for each limit: b, c} or {0, d}\n"
    drifted += "-- errors   E A | E B <n>\n\nreturn KEYS[2]\n"
    monkeypatch.setattr(lua_tools, "source", lambda _: drifted)
    read = contract("x")
    assert (read.indices, read.errors) == ({"KEYS": {"1"}, "ARGV": set()}, {"E A", "E B"})
    assert read.replies == {1: (2, 2), 0: (2, 0)}
