"""Lines of access logs: which are requests, when, of whom, and for what."""

import gzip

import pytest

from ratelimit.cli.replay.access_log import Request, parse_line, read
from ratelimit.errors import ConfigError

pytestmark = pytest.mark.slow

# 2015-05-17 10:05:03 UTC
SECOND = 1431857103
TIME = "[17/May/2015:10:05:03 +0000]"


def line(host="10.0.0.1", user="-", time=TIME, request="GET /a HTTP/1.1", rest='200 12 "-" "curl/8"'):
    return f'{host} - {user} {time} "{request}" {rest}\n'.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(), (SECOND, "10.0.0.1", "GET /a")),
        (line(rest="200 12"), (SECOND, "10.0.0.1", "GET /a")),  # common log format: no referrer, no agent
        (line(rest="304 -"), (SECOND, "10.0.0.1", "GET /a")),
        (line().replace(b"\n", b"\r\n"), (SECOND, "10.0.0.1", "GET /a")),
        (line().rstrip(), (SECOND, "10.0.0.1", "GET /a")),
        (line(host="2001:db8::1"), (SECOND, "2001:db8::1", "GET /a")),
        (line(user="frank"), (SECOND, "10.0.0.1", "GET /a")),
        (line(user="john doe [x]"), (SECOND, "10.0.0.1", "GET /a")),
        (line(time="[17/May/2015:12:05:03 +0200]"), (SECOND, "10.0.0.1", "GET /a")),
        (line(time="[17/May/2015:06:35:03 -0330]"), (SECOND, "10.0.0.1", "GET /a")),
        (line(time="[29/Feb/2016:23:59:59 +0000]"), (1456790399, "10.0.0.1", "GET /a")),
        (line(request="GET /a?b=c?d HTTP/2.0"), (SECOND, "10.0.0.1", "GET /a")),
        (line(request="GET /?q"), (SECOND, "10.0.0.1", "GET /")),  # HTTP/0.9
        (line(request="POST /a b HTTP/1.1"), (SECOND, "10.0.0.1", "POST /a b")),
        (line(request=r"GET /\"x\" HTTP/1.1"), (SECOND, "10.0.0.1", r"GET /\"x\"")),
        (line(request="OPTIONS * HTTP/1.1"), (SECOND, "10.0.0.1", "OPTIONS *")),
        (line(request="GET /caf\xe9 HTTP/1.1").decode().encode("latin-1"), (SECOND, "10.0.0.1", "GET /caf\xe9")),
    ],
)
def test_a_line_is_a_request(text, expected):
    """Host, time in UTC, verb and path: in common and combined format, with odd but real variations."""
    assert parse_line(text) == Request(*expected)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"not a log line\n",
        b"\x00\xff\xfe" * 100,
        line(time="[17/Mai/2015:10:05:03 +0000]"),
        line(time="[31/Feb/2015:10:05:03 +0000]"),
        line(time="[17/May/2015:24:05:03 +0000]"),
        line(time="[17/May/2015 10:05:03]"),
        line(time="[01/Jan/1970:00:00:00 +0000]"),  # a clock that was never set
        line(request="-"),
        line(request=r"\x16\x03\x01"),
        line(request="get /a HTTP/1.1"),
        line(rest=""),
        line(rest="OK 12"),
        line(host="\x1b[31mred"),
        line(host="x" * 256),
        line()[:60],
    ],
)
def test_a_line_is_malformed(text):
    """What is no request in this format, has no real time, or would print control codes as an address."""
    assert parse_line(text) is None


def test_a_log_is_sorted_and_counted(tmp_path):
    """By time; within one second in the order of the file. Lines and their numbers are kept for the report."""
    path = tmp_path / "log"
    times = [f"[17/May/2015:10:05:{second:02} +0000]" for second in (5, 3, 4, 3)]
    path.write_bytes(b"junk\n" + b"".join(line(host=f"h{n}", time=time) for n, time in enumerate(times)) + b"junk")
    log = read(str(path), lambda _: None)
    assert [(request.second - SECOND, request.client) for request in log.requests] == [
        (0, "h1"),
        (0, "h3"),
        (1, "h2"),
        (2, "h0"),
    ]
    assert (log.lines, log.malformed, log.first_malformed, log.disordered) == (6, 2, 1, 2)


def test_texts_are_kept_once(tmp_path):
    """The same address and method in many lines are one object each: a long log fits into memory."""
    path = tmp_path / "log"
    path.write_bytes(line() * 3)
    first, second, third = read(str(path), lambda _: None).requests
    assert first.client is second.client is third.client
    assert first.method is second.method is third.method


def test_progress_is_shown_in_bytes_of_the_file(tmp_path):
    """Every 1,000 lines, also of a packed file, and never beyond its size."""
    path = tmp_path / "log.gz"
    path.write_bytes(gzip.compress(line() * 3500))
    progress = []
    read(str(path), progress.append)
    assert len(progress) == 3
    assert progress[-1] <= path.stat().st_size


PACKED = gzip.compress(b"".join(line(host=f"10.0.{n // 250}.{n % 250}") for n in range(5000)), mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("log.gz", PACKED[: len(PACKED) // 2], "is cut off: its gzip data ends after "),
        ("log", PACKED[:12], "is cut off: its gzip data ends after 0 lines"),
        ("log.gz", PACKED[:40] + b"\xff" * 400 + PACKED[440:], "is damaged: its gzip data cannot be unpacked after "),
        ("log.gz", PACKED[:-8] + b"\0" * 8, "is damaged: its gzip data cannot be unpacked after 5000 lines"),
        ("log.gz", PACKED + b"more", "is damaged: its gzip data cannot be unpacked after 5000 lines"),
        ("log.gz", line(), "is not gzip, although its name ends in .gz"),
        ("log", b"", "is empty"),
        ("log", gzip.compress(b""), "is empty"),
        ("log", b"one\ntwo\n", "none of its 2 lines is a request in common or combined log format"),
    ],
)
def test_a_log_that_cannot_be_used_says_why(tmp_path, name, content, problem):
    """The error names the file, what is wrong with it, and how far it could be read."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(str(path), lambda _: None)
    assert str(caught.value).startswith(f"{path}: {problem}")


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    """Nothing there, or a folder."""
    for path, problem in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            read(str(path), lambda _: None)
        assert str(caught.value) == f"{path}: cannot be read: {problem}"
