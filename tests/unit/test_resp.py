"""Reading the protocol of Redis without hiredis: the same replies, in whatever pieces they come."""

import pytest
from helpers.servers import needs_hiredis
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse

from ratelimit.store.resp import INCOMPLETE, Reader, new_reader


class ReplyError(Exception):
    def __eq__(self, other):
        return type(other) is ReplyError and self.args == other.args

    __hash__ = Exception.__hash__


SIMPLE = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=40),
    st.builds(ReplyError, st.text("ABC xyz-", min_size=1, max_size=20)),
)
REPLIES = st.lists(
    st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=4), max_leaves=8), min_size=1, max_size=5
)


def sent(reply):
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    if isinstance(reply, list):
        return b"*%d\r\n%b" % (len(reply), b"".join(map(sent, reply)))
    return b"-%b\r\n" % reply.args[0].encode()


def all_of(reader):
    return list(iter(reader.gets, INCOMPLETE))


@given(REPLIES, st.lists(st.integers(1, 60), max_size=30))
def test_replies_are_read_in_any_pieces(replies, sizes):
    data = b"".join(map(sent, replies))
    reader, read = Reader(ReplyError), []
    for size in sizes:
        reader.feed(data[:size])
        data = data[size:]
        read += all_of(reader)
    reader.feed(data)
    read += all_of(reader)
    assert read == replies
    assert not reader.has_data()


@needs_hiredis
@given(REPLIES)
def test_hiredis_reads_the_same(replies):
    reader = new_reader(ReplyError)
    reader.feed(b"".join(map(sent, replies)))
    assert all_of(reader) == replies


def test_half_a_reply_is_data():
    reader = Reader(ReplyError)
    assert not reader.has_data()
    for part in (b"+", b"O", b"K\r"):
        reader.feed(part)
        assert reader.gets() is INCOMPLETE
        assert reader.has_data()
    reader.feed(b"\n")
    assert (reader.gets(), reader.has_data()) == (b"OK", False)


def test_an_absent_array_is_none():
    reader = Reader(ReplyError)
    reader.feed(b"*-1\r\n")
    assert reader.gets() is None


@pytest.mark.parametrize("data", [b"?\r\n", b":one\r\n", b"$x\r\n", b"\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_what_is_no_reply_raises(data):
    reader = Reader(ReplyError)
    reader.feed(data)
    with pytest.raises(InvalidResponse):
        reader.gets()
