"""A fuzz target for each reader of what others wrote: it gives what it should or the errors that it says, nothing else.

Some hundred inputs each in CI; `make fuzz` tries many more (RATELIMIT_FUZZ_EXAMPLES says how many). What has been
found nasty before is an example of its own, and tried every time.
"""

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import string
import traceback
from datetime import date
from math import inf, isfinite, nan

import click
import http_sf
import pytest
from helpers import aws_samples
from helpers.commands import run
from helpers.paths import ROOT
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ratelimit import AsyncLimiter, ConfigError, Decision, Limiter, LimitStatus, Reason, StoreError, Throttle
from ratelimit.admin.aws import AwsConversion, convert, shapes
from ratelimit.admin.aws.export import assemble
from ratelimit.admin.csv import format as csv_keys
from ratelimit.catalog.files import read_plan_file
from ratelimit.cli import options
from ratelimit.cli.replay import access_log
from ratelimit.model import Stage, UsagePlan
from ratelimit.registry import plan_documents
from ratelimit.registry.key_record import KeyRecord
from ratelimit.store.urls import redact_url

EXAMPLES = int(os.environ.get("RATELIMIT_FUZZ_EXAMPLES", "100"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
pytestmark = pytest.mark.timeout(0 if EXAMPLES > 100 else 180)

SECRET = "S3cr3tPw-0123456789ab"
ODD = [
    "",
    "\0",
    "\x1b[31m",
    "\udc80",
    "\u202e",
    "\uff1d1",
    "\uffff",
    "\r",
    "\n",
    "\t",
    '"',
    "'",
    "\\",
    "|",
    "#",
    "[",
    "{",
    ",",
    ".",
]
NUMBERS = [
    *[
        "0",
        "-0",
        "1",
        "-1",
        "0.1",
        "1/3",
        "1/0",
        "1e400",
        "1e-400",
        "1e999999999",
        "1e99999999999999999999",
        "nan",
        "-nan",
        "inf",
        "-inf",
        "Infinity",
    ],
    *["0x10", "1_000", "٣", "²", "+1", "true"],
    *(" 1 ", "9" * 30, "9" * 5000, "1." + "1" * 5000),
]
TEXT = st.text(max_size=30) | st.sampled_from(ODD) | st.sampled_from(NUMBERS)
BYTES = st.binary(max_size=200)


def mutated(texts, parts=TEXT):
    """One of the texts with some spans replaced."""

    @st.composite
    def draw_one(draw):
        text = draw(st.sampled_from(texts))
        for _ in range(draw(st.integers(0, 4))):
            start = draw(st.integers(0, len(text)))
            stop = draw(st.integers(start, min(len(text), start + 40)))
            text = text[:start] + draw(parts) + text[stop:]
        return text

    return draw_one()


def encoded(text):
    return text.encode(errors="surrogatepass")


def tried(make):
    """What it gives and None, or None and its ConfigError."""
    try:
        return make(), None
    except ConfigError as error:
        return None, error


def told_by(error):
    """All that an error shows, with what goes along with it."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)


# ----- plan files

PLAN_FILE = """
account = { rate = 1000, burst = 2000 }
[plans.gold]
name = "Gold"
throttle = { rate = 0.5, burst = 20 } # '''
quota = { limit = 1000, period = "WEEK", offset = 3 }
throttle_scope = 'key_method'
alerts = [80, 100]
lease = 0.1
[plans.gold.stages."petstore/prod".throttles]
"GET /pets/{id}" = { rate = "1/3", burst = 1 }
[plans.trial]
stages = ["petstore/prod", "petstore/test"]
[stages."petstore/prod".methods]
"GET /health" = { key_required = false }
[[a]]
b = \"\"\"x\"\"\"
"""
PLAN_PARTS = TEXT | st.sampled_from(
    [
        "[plans.x]",
        "plans",
        "gold",
        "= 1\n",
        " = [",
        "]",
        "}",
        " = {",
        "a.b.c.",
        '"""',
        "'''",
        "rate",
        "1979-05-27",
        "\\u0000",
    ]
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "input"


@fuzz
@given(data=mutated([PLAN_FILE], PLAN_PARTS).map(encoded) | st.lists(PLAN_PARTS).map("".join).map(encoded) | BYTES)
@example(data=b"a" + b".a" * 20_000 + b" = 1")
@example(data=b'"a"' + b'."a"' * 20_000 + b" = 1")
@example(data=b"a = " + b"[" * 100_000)
@example(data=b"a = " + b"[\n" * 100_000)
@example(data=b"a = " + b"{a=" * 1000)
@example(data=b"[plans.p]\nlease = " + b"9" * 5000)
@example(data=b"[plans.p]\nlease = 1e99999999999999999999")
@example(data=b"[plans.p]\nthrottle = {rate = 0." + b"1" * 10**5 + b", burst = 1}")
@example(data=b"[plans.p]\nthrottle = {rate = nan, burst = inf}")
@example(data=b"[plans.p]\nname = 0001-01-01T00:00:00Z")
@example(data=b'a = """' + b'""\\"' * 10_000)
@example(data=b"\xff\xfe")
def test_plan_files(file, data):
    """A document that can be stored and read again, or a ConfigError with the name of the file."""
    file.write_bytes(data)
    result, error = tried(lambda: read_plan_file(file))
    if error is not None:
        assert error.field == str(file)
        return
    for plan in result.plans.values():
        assert plan_documents.plan_from_json(plan.id, plan_documents.plan_json(plan)) == plan
    for stage in result.stages.values():
        assert plan_documents.stage_from_json(stage.id, plan_documents.stage_json(stage)) == stage


# ----- keys as CSV

CSV = f"""Key,Name,Description,Enabled,UsagePlanIds
{SECRET},one,"a, b",true,"gold,trial"
"{SECRET}x",'two',,FALSE,gold
"""


@fuzz
@given(data=mutated([CSV]).map(encoded) | mutated([CSV]).map(lambda text: text.encode("utf-16", "ignore")) | BYTES)
@example(data=b"Key,Name\n" + b'"' * 50_001)
@example(data=b"Key,Name\n" + b"'" * 50_001 + b",x")
@example(data=b"Key,Name\n" + b"," * 50_000)
@example(data=b"x" * (2**20 + 1))
@example(data=b"Key,Name,Key\n")
@example(data=b"Key,Name\r" + SECRET.encode() + b",x\r")
@example(data=f"Key,Name\n{SECRET},rl_live_{'a' * 36}\n".encode())
@example(data=f"Key,Name\n\0{SECRET},x\n".encode())
def test_keys_as_csv(data):
    """Rows and warnings, or a ConfigError; neither shows a value, in whatever column it stands."""
    result, error = tried(lambda: list(csv_keys.read(io.BytesIO(data), "keys.csv")))
    if error is not None:
        assert error.field.startswith("keys.csv")
        assert SECRET not in told_by(error)
        return
    for item in result:
        assert item is None or isinstance(item, csv_keys.Row | csv_keys.RowWarning)
        assert isinstance(item, csv_keys.Row) or SECRET not in str(item)


# ----- access logs

LOG = (
    '10.0.0.1 - - [04/Mar/2026:00:00:01 +0000] "GET /a?b HTTP/1.1" 200 1 "-" "-"\n'
    '2001:db8::2 - me [29/Feb/2024:23:59:59 -0930] "POST /\\"x HTTP/2" 503 -\n'
)


@fuzz
@given(line=mutated(LOG.splitlines()).map(encoded) | BYTES)
@example(line=encoded(LOG.splitlines()[0]).replace(b"/a", b"/" + b'\\"' * 60_000))
@example(line=encoded(LOG.splitlines()[0]).replace(b"/a", b" HTTP/1." * 15_000))
@example(line=encoded(LOG.splitlines()[0]).replace(b"04/Mar", b"31/Feb"))
@example(line=encoded(LOG.splitlines()[0]).replace(b"2026", b"1970").replace(b"+0000", b"+9999"))
@example(line=b"\x1b[31m" + encoded(LOG.splitlines()[0]))
def test_lines_of_access_logs(line):
    """A request whose client can be printed, or None."""
    request = access_log.parse_line(line)
    if request is not None:
        assert request.second > 0
        assert request.client.isascii()
        assert request.client.isprintable()
        assert request.method[: request.method.index(" ")].isascii()


@fuzz
@given(
    text=mutated([LOG * 3]).map(encoded), is_packed=st.booleans(), cut=st.integers(0, 60), flipped=st.integers(0, 400)
)
@example(text=b"\0" * (2**17 + 1), is_packed=True, cut=0, flipped=400)
@example(text=b"", is_packed=True, cut=0, flipped=400)
@example(text=b"", is_packed=True, cut=9, flipped=400)
def test_access_logs(file, text, is_packed, cut, flipped):
    """A log in order, or a ConfigError: also where packed data is cut off, or a bit of it is wrong."""
    data = bytearray(gzip.compress(text) if is_packed else text)
    if flipped < len(data):
        data[flipped] ^= 1
    file.write_bytes(data[: len(data) - cut])
    log, error = tried(lambda: access_log.read(str(file), lambda _: None))
    if error is not None:
        assert error.field.startswith(str(file))
    else:
        assert log.requests == sorted(log.requests, key=lambda request: request.second)
        assert len(log.requests) + log.malformed == log.lines


# ----- exports of AWS

NAMES = sorted({name for kind in shapes.KINDS.values() for name in kind.shape} | {"item", "items", "position"})
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(SECRET)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXT, inner, max_size=5),
    max_leaves=25,
)
SAMPLES = [json.dumps(sample) for sample in (aws_samples.PLANS, aws_samples.KEYS)]
DEEP = '{"items": [{"id": "k1", "enabled": true, "value": "%s", "x": %s}]}'


@fuzz
@given(texts=st.lists(JSON.map(json.dumps) | mutated(SAMPLES) | st.sampled_from(SAMPLES), min_size=1, max_size=3))
@example(texts=["[" * 100_000])
@example(texts=[DEEP % (SECRET, "[" * 900 + "]" * 900)] * 2)
@example(texts=[DEEP % (SECRET, "1e99999999999999999999")])
@example(texts=[DEEP.replace('"x"', '"createdDate"') % (SECRET, "1e999990")])
@example(texts=[DEEP.replace('"x"', '"createdDate"') % (SECRET, '"0001-01-01T00:00:00+23:59"')])
@example(texts=['{"throttleSettings": {"rateLimit": 1e400000000, "burstLimit": %s}}' % ("9" * 4000)])
@example(texts=['{"throttleSettings": {"rateLimit": 0.%s, "burstLimit": 1}}' % ("1" * 10**5)])
@example(texts=['{"throttleSettings": {"rateLimit": NaN, "burstLimit": 1}}'])
@example(texts=['{"items": [{"id": "' + SECRET + '", "apiStages": [{"apiId": "\\ud800", "stage": "\\u0000"}]}]}'])
def test_exports_of_aws(texts):
    """Plans, stages and keys with notes, or a ConfigError; neither shows the value of a key."""
    files = {f"{number}.json": encoded(text) for number, text in enumerate(texts)}
    result, error = tried(lambda: convert(assemble([shapes.parse(data, name) for name, data in files.items()])))
    if error is not None:
        assert SECRET not in told_by(error)
        return
    assert isinstance(result, AwsConversion)
    for key in result.keys:
        assert key.value not in repr(result.keys)
        assert not any(key.value in note.why for note in result.notes)


# ----- URLs

JUNK = st.text(st.sampled_from(":/?#[]@!$&'()*+,;=%ab0. \t\n\0℀\udc80"), max_size=6)
BEHIND = st.sampled_from(
    [
        "",
        "/",
        "/0",
        "/x",
        ":6379",
        ":0",
        ":99999/1",
        ":/2",
        "?db=1",
        "/0?protocol=9",
        "?retry=1",
        "?x",
        "?ssl_ciphers=a",
    ]
)


@fuzz
@given(
    scheme=st.sampled_from(["redis://", "rediss://", "unix://", "http://", "redis:", "", "REDIS://"]),
    user=JUNK | st.just("user"),
    before=JUNK,
    after=JUNK,
    behind=(BEHIND | JUNK).map("h{}".format) | st.just("/tmp/redis.sock") | JUNK,
    is_option=st.booleans(),
)
@example(scheme="redis://", user="", before="", after="#tail", behind="host", is_option=False)
@example(scheme="unix://", user="user", before="", after="/x", behind="/run/redis.sock", is_option=False)
@example(scheme="redis://", user="", before="@", after="?client_name=x", behind="h", is_option=False)
@example(scheme="redis://", user="", before="@", after="/", behind="0", is_option=False)
@example(scheme="redis://", user="", before="", after="%40", behind="[::1]:1", is_option=False)
@example(scheme="redis://", user="", before="[", after="]", behind="h", is_option=False)
@example(scheme="redis://", user="", before="℀", after="", behind="h", is_option=False)
@example(scheme="redis://", user="", before="", after="", behind="h?protocol=9", is_option=True)
@example(scheme="redis://", user="", before="", after="&retry=1", behind="h", is_option=True)
@example(scheme="unix://", user="", before="", after="", behind="/tmp/redis.sock", is_option=True)
def test_urls(scheme, user, before, after, behind, is_option):
    """A client, or a ConfigError of the field `url`; nothing shows what stood where a password belongs."""
    if is_option:
        url = f"{scheme}{behind}{'&' if '?' in behind else '?'}password={before}{SECRET}{after}"
    else:
        url = f"{scheme}{user}:{before}{SECRET}{after}@{behind}"
    for kind in (Limiter, AsyncLimiter):
        made, error = tried(lambda kind=kind: kind.from_url(url))
        if error is not None:
            assert error.field == "url"
            assert error.__cause__ is error.__context__ is None
            assert SECRET not in told_by(error)
        elif kind is Limiter:
            made.close()
    assert SECRET not in redact_url(url)


# ----- the command line

WORDS = st.sampled_from(NUMBERS) | TEXT.filter(lambda text: "\0" not in text)
DAYS = [
    "2026-03-04",
    "0001-01-01",
    "9999-12-31T23:59:59+23:59",
    "0001-01-01T00:00:00-23:59",
    "2026-W10-3",
    "20260304",
    "never",
]


@fuzz
@given(text=st.sampled_from(DAYS) | mutated(DAYS) | WORDS)
def test_words_of_options(text):
    """A value within its bounds, or an error of click."""
    for read in (options.duration, options.timestamp, options.day, options.tag):
        with contextlib.suppress(click.UsageError):
            assert read(text) is not None
    with contextlib.suppress(click.UsageError):
        assert isinstance(options.day(text), date)
    with contextlib.suppress(click.UsageError):
        assert 0 < options.Seconds(min_open=True).convert(text, None, None) <= options.MAX_SECONDS
    with contextlib.suppress(ConfigError):
        assert Throttle(text, 1).rate >= 0


COMMANDS = [
    ("keys", "create", "x", "--expires", "{}"),
    ("keys", "rotate", "x", "--grace", "{}"),
    ("keys", "list", "--limit", "{}"),
    ("keys", "list", "--cursor", "{}"),
    ("keys", "create", "{}", "--tag", "{}={}", "--owner", "{}"),
    ("plans", "put", "{}", "--rate", "{}", "--burst", "{}"),
    ("plans", "put", "gold", "--quota", "{}", "--period", "DAY", "--offset", "{}"),
    ("plans", "put", "gold", "--alert", "{}", "--lease", "{}"),
    ("plans", "put", "gold", "--method", "a/b", "{}", "{}", "{}"),
    ("stages", "put", "{}", "--list", "{}"),
    ("account", "set", "--rate", "{}", "--burst", "{}"),
    ("usage", "gold", "--from", "{}", "--to", "{}"),
    ("usage", "set-remaining", "gold", "k", "{}"),
    ("check", "k", "a/b", "GET /", "--cost", "{}"),
    ("check", "{}", "{}", "{}"),
    ("watch", "--seconds", "{}", "--count", "{}"),
    ("watch", "--group", "{}", "--consumer", "{}"),
    ("top", "--every", "{}", "--limit", "{}"),
    ("replay", "/nowhere", "--plan", "/nowhere", "--top", "{}"),
    ("plans", "list", "--deadline", "{}"),
    ("plans", "list", "--namespace", "{}"),
]


@fuzz
@given(command=st.sampled_from(COMMANDS), words=st.lists(WORDS, min_size=4, max_size=4))
@example(command=("watch", "--seconds", "{}"), words=["nan"] * 4)
@example(command=("top", "--every", "{}"), words=["nan"] * 4)
@example(command=("watch", "--group", "{}"), words=["\udc80"] * 4)
@example(command=("usage", "gold", "--to", "{}"), words=["0001-01-01"] * 4)
@example(command=("plans", "list", "--url", "{}"), words=["redis://h?protocol=9"] * 4)
@example(command=("plans", "list", "--url", "{}"), words=["redis://h?retry=1"] * 4)
@example(command=("plans", "put", "p", "--rate", "1", "--burst", "{}"), words=["9" * 4000] * 4)
def test_commands(command, words):
    """Ends with a message and 2 or 3 (there is no server), however odd its words are; never with a traceback."""
    left = itertools.cycle(words)
    arguments = ["".join(next(left) if word == "{}" else word for word in re.split("({})", part)) for part in command]
    result = run(*arguments, RATELIMIT_URL="unix:///nowhere/no.sock", RATELIMIT_KEY="")
    assert isinstance(result.exception, SystemExit) or result.exit_code == 0, told_by(result.exception)
    assert result.exit_code in {2, 3} or "--help" in arguments or "-h" in arguments
    assert "\x1b" not in result.output


# ----- what Redis holds

RECORD = KeyRecord("k1", "me", True, ("gold",), {"M9lS07KAh4aDJku9A5QEsQ": 0}, 1, 2, "stamp--1").json()  # noqa: FBT003
PLAN = next(iter(plan_documents.document_from({"plans": {"gold": {"stages": ["a/b"]}}}).plans.values()))
STORED = [
    plan_documents.plan_json(PLAN),
    '{"methods": {"GET /": {"key_required": false}}}',
    '{"rate": "1/3", "burst": 5}',
]
STORED_PARTS = TEXT | st.sampled_from(["null", "[]", "{}", "NaN", "-Infinity", "1e400", "true", '""', '"x": '])
UNREADABLE = (StoreError,)
"""What the reader of a record may raise: all but this is an error of ours."""
UNREADABLE_DOCUMENT = (ValueError, StoreError)
"""ConfigError and json's own are ValueErrors; who reads a catalogue makes a StoreError of them."""


@fuzz
@given(text=mutated([RECORD], STORED_PARTS) | JSON.map(json.dumps) | TEXT)
@example(text="null")
@example(text="[]")
@example(text='{"plans": 1}')
@example(text=RECORD.replace("created_us", "created"))
@example(text=RECORD.replace('"tags"', '"more": 1, "tags"'))
@example(text=RECORD.replace(":0}", ':"x"}'))
def test_records_of_keys(text):
    """A record or a StoreError."""
    with contextlib.suppress(*UNREADABLE):
        assert isinstance(KeyRecord.from_json(text), KeyRecord)


@fuzz
@given(text=mutated(STORED, STORED_PARTS) | JSON.map(json.dumps) | TEXT)
@example(text="null")
@example(text='{"throttle": {"rate": NaN, "burst": 1}}')
@example(text='{"throttle": {"rate": 1e400, "burst": 1}}')
@example(text='{"stages": {"a/b": {"throttles": {"GET /": null}}}}')
@example(text='{"alerts": {"80": 1}, "quota": {"limit": 1, "period": "DAY"}}')
def test_documents_of_the_catalogue(text):
    """A plan, a stage or a throttle, or an error that a reader of the catalogue expects."""
    for read, kind in (
        (lambda text: plan_documents.plan_from_json("gold", text), UsagePlan),
        (lambda text: plan_documents.stage_from_json("a/b", text), Stage),
        (plan_documents.throttle_from_json, Throttle),
    ):
        with contextlib.suppress(*UNREADABLE_DOCUMENT):
            assert isinstance(read(text), kind)


# ----- headers

MOMENTS = st.sampled_from((None, 0.0, inf, nan)) | st.integers(1, 2**53).map(lambda us: us / 1e6)
VISIBLE = st.text(string.printable.strip() + " ", min_size=1, max_size=40)
LIMITS = st.builds(
    LimitStatus,
    st.sampled_from(["plan:gold", "quota:gold", "account"]) | VISIBLE,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    MOMENTS,
    MOMENTS,
    MOMENTS,
)


@fuzz
@given(limits=st.lists(LIMITS, max_size=4).map(tuple), retry_after=MOMENTS)
@example(limits=(LimitStatus("quota:gold", 0, 0, None, None, None),), retry_after=None)
@example(limits=(LimitStatus('a"\\', 2**53, 2**53, 2**53 / 1e6, 0.0, 1e-6),), retry_after=1e-6)
@example(limits=(LimitStatus("plan:gold", 1, 0, 1e-6, 0.0, 1e-6),), retry_after=9e9)
@example(limits=(LimitStatus("plan:gold", 5, 1, nan, nan, nan),), retry_after=nan)
@example(limits=(LimitStatus("plan:gold", 5, 1, inf, inf, inf),), retry_after=inf)
def test_headers(limits, retry_after):
    """Fields that a parser of Structured Fields reads, with the names and the numbers of the limits."""
    fields = Decision(Reason.THROTTLED, retry_after=retry_after, limits=limits).headers()
    assert all(text.isascii() and text.isprintable() for text in fields.values())
    is_told = retry_after is not None and isfinite(retry_after)
    assert ("Retry-After" in fields) == is_told
    assert not is_told or int(fields["Retry-After"]) >= retry_after - 1e-6
    for name in ("RateLimit", "RateLimit-Policy") if limits else ():
        members = http_sf.parse(fields[name].encode(), tltype="list")
        assert [text for text, _ in members] == [limit.name for limit in limits]
        for _, parameters in members:
            assert all(0 <= number < 10**15 for number in parameters.values())


def test_every_target_is_run_by_make():
    """`make fuzz` runs this file."""
    makefile = (ROOT / "Makefile").read_text()
    assert "tests/properties/test_fuzz.py" in makefile
