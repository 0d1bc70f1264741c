"""Bugs in the two quick ways through the scripts, each with the promise that it breaks; as `bugs`."""

from seeded_bugs.bug_promises import (
    admission,
    at_once,
    change_of_plan,
    denial_by_the_plan,
    denial_by_the_stage,
    expiries,
    keys_at_once,
    metering,
    methods_at_once,
    obeying_at_once,
    overtaking,
    peek,
    period,
    quota,
    renewal,
    retry_after,
    steady_traffic,
    went_back,
)
from seeded_bugs.mutations import Lua, Many

USUAL_NOT_CHARGED = Lua(
    "usual: further buckets not charged",
    "numbers[at - 5] = numbers[at] - numbers[at - 1]",
    "numbers[at - 5] = numbers[at]",
)
USUAL_ONE_TOO_FEW = Lua("usual: the last unit refused", "if not (cost <= left) then", "if not (cost < left) then")
USUAL_REFILL_LOST = Lua(
    "usual: refill rounded to whole tokens",
    "level = level + (now - last) * plan_rate\n",
    "level = level + math.floor((now - last) * plan_rate / plan_per) * plan_per\n",
)

USUAL = (
    (
        Lua(
            "usual: charge before judging",
            "      numbers[at] = held\n",
            "      numbers[at] = held\n      local place = KEYS[own_keys + at / 7 - own_buckets]\n"
            "      if at / 7 > own_buckets then redis.call('SET', place, "
            "struct.pack('<ddd', numbers[at - 6], held - numbers[at - 1], now)) end\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: a denial counts",
            "  if refused then return reply end\n",
            "  if refused then\n    redis.call('HSET', KEYS[1], ARGV[2], "
            "string.sub(own[2], 1, 48) .. struct.pack('<d', now))\n    return reply\n  end\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: expiry moved although denied",
            "  if refused then return reply end\n",
            "  if refused then\n    if KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\n"
            "    return reply\n  end\n",
        ),
        expiries,
    ),
    (
        Lua("usual: a peek charges", "if own and not has_shadow and not peeks then", "if own and not has_shadow then"),
        peek,
    ),
    (USUAL_NOT_CHARGED, admission),
    (
        Lua("usual: only one bucket denies", "if not (numbers[at - 1] <= held) then fits = false end\n", "\n"),
        denial_by_the_stage,
    ),
    (Lua("usual: the last token refused", "price <= level", "price < level"), retry_after),
    (USUAL_REFILL_LOST, steady_traffic),
    (USUAL_ONE_TOO_FEW, quota),
    (Lua("usual: another window ignored", "calendar == this_calendar", "calendar % 1048576 == today"), period),
    (Lua("usual: a newer day ignored", "calendar == this_calendar", "calendar <= this_calendar"), metering),
    (Lua("usual: a newer day ignored, no quota", "calendar % 1048576 == today", "calendar > 0"), metering),
    (
        Lua(
            "usual: a step back ignored",
            "if per ~= plan_per or now < last then",
            "if per ~= plan_per then",
        ),
        went_back,
    ),
    (
        Lua("usual: a changed plan ignored", "if per ~= plan_per or now < last", "if now < last"),
        change_of_plan,
    ),
    (
        Lua("usual: more than full", "if level > full then level = full end\n    if not (price", "if not (price"),
        steady_traffic,
    ),
    (
        Lua("usual: expiries not renewed", "if last < recent then", "if last == 0 then"),
        renewal,
    ),
    (
        Lua(
            "usual: expiries renewed for a full bucket",
            "fill_us[i] = numbers[at - 2] / numbers[at - 3]",
            "fill_us[i] = 0",
        ),
        renewal,
    ),
    (Lua("expiries end before a bucket is full", "(2 * KEPT_US + fill_us[i]) / 1000", "2 * KEPT_US / 1000"), renewal),
)
"""Bugs in lib/usual.lua, and in what check.lua does with its verdict."""

AT_ONCE = (
    (
        Many(
            "shared state not carried",
            "shared[place], charged_at[place] = pack_doubles('<ddd', unpack(numbers, 7 * b - 6, 7 * b - 4)), given_us",
            "charged_at[place] = given_us",
        ),
        at_once,
    ),
    (
        Many(
            "shared state not written", "for place, given in pairs(charged_at) do", "for place, given in pairs({}) do"
        ),
        at_once,
    ),
    (Many("the key's state not carried", "own[2] = plan", ""), at_once),
    (
        Many(
            "the key's state not written", "for key in pairs(changed) do write(key, hashes[key], read_at[key]) end", ""
        ),
        at_once,
    ),
    (Many("denied, but charged", "if reply and not refused then", "if reply then"), at_once),
    (Many("a key that is met once not written", "call('HSET', key, field, plan)", ""), keys_at_once),
    (Many("nor with its methods", "          write(key, own, at)\n", ""), keys_at_once),
    (
        Many(
            "all taken for the first question",
            "if asked_by ~= '' then number, again = byte(asked_by, 2 * i - 1, 2 * i) end",
            "",
        ),
        methods_at_once,
    ),
    (
        Many(
            "buckets of methods not carried",
            "for b = 1, own_buckets do own[b + 2] = sub(reply, 33 + 24 * b, 56 + 24 * b) end",
            "",
        ),
        methods_at_once,
    ),
    (
        Many(
            "another question, and what is not yet written is lost",
            "if changed[key] then write(key, own, before) end",
            "",
        ),
        methods_at_once,
    ),
    (
        Many("one question taken for another", "same = same and ARGV[before + i] == ARGV[at + i]", "same = same"),
        methods_at_once,
    ),
    (Many("left out, but overtaken", "in_turn = in_turn and not left_out[KEYS[k]]", "in_turn = in_turn"), overtaking),
    (Many("only the key's own checks wait", "left_out[KEYS[k]] = true end", "end"), overtaking),
    (Many("identities not compared", "own[1] == sub(identities, 26 * i - 25, 26 * i)", "true"), obeying_at_once),
    (Many("keys never expire", "(valid_until == 0 or now < valid_until)", "true"), obeying_at_once),
    (Many("set without an expiry", "elseif expiry[place] then", "elseif false then"), renewal),
    (
        Many("expiries end before a bucket is full", "(2 * KEPT_US + expiry[place]) / 1000", "2 * KEPT_US / 1000"),
        renewal,
    ),
    (
        Many(
            "an expiry with every charge",
            "expiry[place] = expiry[place] or fill_us and fill_us[b]",
            "expiry[place] = 1000000000",
        ),
        renewal,
    ),
)
"""Bugs in check_many.lua."""
