"""What test vectors are written with: bytes packed from the tables of lua/PROTOCOL.md, and nothing of the package."""

import struct
from functools import partial

NOW = 1_772_625_600_000_000
"""Wednesday 2026-03-04 12:00:00 UTC: the middle of day 20516."""
DAY = 86_400_000_000
TODAY = 20_516
MIDNIGHT = TODAY * DAY
HALF = DAY // 2
WINDOW = TODAY * 64 + 1
"""The window of today, as a state has it."""
LARGEST = 2**53 - 1
ARGUMENTS = "RATELIMIT ARGUMENTS"
KEY, ACCOUNT, STAGE = "ratelimit:{k1}", "ratelimit:account", "ratelimit:stage:petstore/prod:GET /pets"
IDENTITY, OTHER_IDENTITY = "ratelimit:{~jZrdFy2t_aol4-D45-7CFw}", "ratelimit:{~53l69dxVV1lvk6E7mBi8wQ}"
"""Of "user:42" and of "user:41", without a pepper."""
COUNTED = "ratelimit:identities:gold"
STREAM = "ratelimit:alerts"
DAYS, JOURNAL = f"{KEY}:days", "{ratelimit}:journal"
LIFE = "life---1"
PLAN, METHOD = "p:gold", "b:gold:petstore/prod:GET /pets"
TEN = (5, 1, 100_000)
"""Burst 5, 10 a second: 1 token per 100 000 us."""
DAILY = (100, TODAY, TODAY + 1, TODAY + 2)
"""100 a day: the limit, and the ends of two windows between which the script chooses."""


def doubles(*numbers):
    """Little-endian IEEE 754 doubles: how this contract packs numbers."""
    return struct.pack(f"<{len(numbers)}d", *numbers)


def version_token(version=7, epoch="epoch--1", stamp="stamp--1"):
    """Field "r" of a key's hash: the catalogue it was last charged under, and the record that holds."""
    return f"{epoch}{version:010}{stamp}".encode()


def bucket(level, *, per=100_000, last=NOW):
    """State of a bucket that is not the plan's own."""
    return doubles(per, level, last)


def state(level=0, *, per=100_000, last=NOW, window=0, used=0, granted=0, day=TODAY, day_used=0):
    """State of a key under a plan: its bucket, and what it used."""
    return doubles(per, level, last, window * 2**20 + day, used, granted, day_used)


def count(used, *, first=TODAY, days=1, granted=0, last=0, day=TODAY, day_used=0):
    """State of a key under a plan without a bucket; `last` is then the time of a charge that was usual."""
    return state(per=0, last=last, window=first * 64 + days, used=used, granted=granted, day=day, day_used=day_used)


def journal_entry(cost, sequence, *, spent, life, now, flags, plan, quota, own, shared, kept, key, tail=(), **token):
    """KEYS and ARGV of charge_journal.lua, without what is last among KEYS for alerts or counted identities."""
    request = doubles(now, cost, kept, flags, *plan, *quota) + version_token(**token)
    request += doubles(*(number for _, *limits in (*own, *shared) for number in limits), *tail)
    has_key, is_identity = flags % 2 == 1, flags % 64 >= 32
    fields = [PLAN, *(field for field, *_ in own)] if has_key else []
    hashes = ([key] if is_identity else [key, DAYS]) if has_key else [JOURNAL]
    keys = [*hashes, *(name for name, *_ in shared)]
    return keys, [request, *fields, life, doubles(sequence, spent)]


def case(
    name,
    why,
    reply,
    *,
    plan=(0, 0, 0),
    quota=(-1, 0, 0, 0),
    own=(),
    shared=(),
    shadow=None,
    alerts=(),
    before=None,
    writes=None,
    now=NOW,
    cost=1,
    valid_until=0,
    flags=1,
    keys=None,
    argv=None,
    is_usual=False,
    key=KEY,
    identities=None,
    lease=(),
    **who,
):
    """One vector.

    plan, quota    burst, rate, per; limit and three days; without them the plan has none
    own, shared    further buckets: (field or key, burst, rate, per)
    shadow         burst, rate, per, limit and three days, then its field and perhaps that of its method's bucket
    alerts         (percentage, count from which it is reached)
    before, writes the state at first, and what changes; fields of the key's hash may stand for themselves, and None
                   takes one away. The hash starts with the version token of version 7
    reply          what a client reads out of the reply: status, time, and of each limit remaining and reset, of one
                   that was not admitted the wait as well; or a text for an error
    key            whose hash it is; an identity's begins without a version token
    identities     of a plan with `max_identities`: the sorted set, how many there may be, one of how many is counted
    lease          of a request for one: the fields of its note and of the note that goes with it
    is_usual       the reply is one text, the new states joined
    who            the version token that is sent, where it differs
    """
    has_key = flags % 2 == 1
    start = _changed({key: {"r": version_token()} if key == KEY else {}} if has_key else {}, before or {}, key)
    rules, shadow_fields = (shadow[:7], shadow[7:]) if shadow else ((), ())
    flags += 4 * bool(shadow) + 8 * bool(alerts) + 16 * (len(shadow_fields) == 2) + 128 * bool(identities)
    flags += 256 * bool(lease)
    counted, bounds = (identities[:1], identities[1:]) if identities else ((), ())
    numbers = [part for _, *bucket in (*own, *shared) for part in bucket]
    numbers += [*rules, *(part for pair in alerts for part in pair), *bounds]
    request = doubles(now, cost, valid_until, flags, *plan, *quota) + version_token(**who) + doubles(*numbers)
    fields = [PLAN, *(place for place, *_ in own), *shadow_fields] if has_key else []
    sent = [request, *(field.encode() for field in (*fields, *lease))] if argv is None else argv
    held = _changed(start, writes or {}, key)
    sent_keys = [key] * has_key + [place for place, *_ in shared] + [STREAM] * bool(alerts) + list(counted)
    answer = {"error" if isinstance(reply, str) else "reply": reply}
    if isinstance(reply, list) and reply[0] >= 0:
        limits = [("", *plan)] * (plan[2] > 0) + [*own, *shared]
        packed_limits = limits_now(start, limits, quota, reply[1], cost if reply[0] in {1, 2} else 0, key)
        answer = {"reply": [*reply[:2], packed_limits.hex()], "means": reply}
    if is_usual:
        states = [held[key][field] for field in fields] + [held[place] for place, *_ in shared]
        answer = {"reply": b"".join(states).hex(), "means": reply}
    return {
        "name": name,
        "why": why,
        "keys": sent_keys if keys is None else keys,
        "argv": [part.hex() for part in sent],
        "before": _hexed(start),
        **answer,
        "after": _hexed(held),
    }


usual = partial(case, is_usual=True)


def limits_now(held, buckets, quota, now, charge, key=KEY):
    """What a reply says of each limit: of a bucket level and last_us, of the quota what is left and its end."""
    own = held.get(key, {})
    its_plan = own.get(PLAN) or state(per=0, last=0, day=0)
    numbers = []
    for place, burst, rate, per in buckets:
        stored = its_plan[:24] if not place else own.get(place) or held.get(place)
        level, last = _bucket_now(stored, burst, rate, per, now)
        numbers += [level - charge * per, last]
    if quota[0] >= 0:
        left, end = _quota_now(its_plan, *quota, now)
        numbers += [max(0, left - charge), end]
    return doubles(*numbers)


def _bucket_now(stored, burst, rate, per, now):
    its_per, level, last = map(int, struct.unpack("<3d", stored)) if stored else (0, 0, 0)
    full = burst * per
    if its_per == 0:
        return full, now
    if per != its_per:
        level = max(max(level, -burst * its_per) * per // its_per, -full, full - 2**53)
    level = min(full, level)
    if now >= last:
        return min(full, level + (now - last) * rate), now
    return level, now if last - now > 2_000_000 else last


def _quota_now(stored, limit, first, second, third, now):
    calendar, used, granted = map(int, struct.unpack("<7d", stored)[3:6])
    started, days = divmod(calendar // 2**20, 64)
    start, end = (first, second) if now < second * DAY else (second, third)
    if 0 < started * DAY - now <= 2_000_000:
        start, end = started, started + days
    elif now >= started * DAY and (started, days) != (start, end - start):
        used, granted = 0, 0
    return limit + granted - used, end * DAY


def _changed(held, changes, key):
    new = {name: dict(value) if isinstance(value, dict) else value for name, value in held.items()}
    for name, value in changes.items():
        place = new if name.startswith("ratelimit:") else new.setdefault(key, {})
        if value is None:
            del place[name]
        else:
            place[name] = value
    return {name: value for name, value in new.items() if value != {}}


def _hexed(held):
    return {key: _hexed_value(value) for key, value in held.items()}


def _hexed_value(value):
    if isinstance(value, bytes):
        return value.hex()
    return {name: part.hex() for name, part in value.items()} if isinstance(value, dict) else value


def together(checks):
    """KEYS and ARGV of check_many, from (KEYS, ARGV, layout) of each check as it would be asked alone."""
    hashes, version_tokens, places, questions = [keys[0] for keys, _, _ in checks], b"", [], []
    for (key, *others), (request, *fields), layout in checks:
        prepared = layout, others[: layout[1]], [request[:88] + bytes(26) + request[114:], *fields]
        questions += [] if prepared in questions else [prepared]
        version_tokens += request[88:114]
        places.append((1 + questions.index(prepared), int(hashes.count(key) > 1)))
    numbers = b"" if set(places) <= {(1, 0)} else b"".join(map(bytes, places))
    keys = [key for _, shared, _ in questions for key in shared] + hashes
    layouts = b"".join(layout for layout, _, _ in questions)
    return keys, [layouts, version_tokens, numbers, *(part for _, _, sent in questions for part in sent)]
