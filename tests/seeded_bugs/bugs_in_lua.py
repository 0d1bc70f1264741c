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
            "      numbers[at] = refilled\n",
            "      numbers[at] = refilled\n      local place = KEYS[hash_keys + at / 7 - key_buckets]\n"
            "      if at / 7 > key_buckets then redis.call('SET', place, "
            "struct.pack('<ddd', numbers[at - 6], refilled - numbers[at - 1], now)) end\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: a denial counts",
            "  if denied then return reply end\n",
            "  if denied then\n    redis.call('HSET', KEYS[1], ARGV[2], "
            "string.sub(hash_values[2], 1, 48) .. struct.pack('<d', now))\n    return reply\n  end\n",
        ),
        denial_by_the_plan,
    ),
    (
        Lua(
            "usual: expiry moved although denied",
            "  if denied then return reply end\n",
            "  if denied then\n    if KEYS[2] then redis.call('PEXPIRE', KEYS[2], 1000) end\n    return reply\n  end\n",
        ),
        expiries,
    ),
    (
        Lua(
            "usual: a peek charges",
            "if hash_values and not has_shadow and not peeks then",
            "if hash_values and not has_shadow then",
        ),
        peek,
    ),
    (USUAL_NOT_CHARGED, admission),
    (
        Lua("usual: only one bucket denies", "if not (numbers[at - 1] <= refilled) then fits = false end\n", "\n"),
        denial_by_the_stage,
    ),
    (Lua("usual: the last token refused", "price <= level", "price < level"), retry_after),
    (USUAL_REFILL_LOST, steady_traffic),
    (USUAL_ONE_TOO_FEW, quota),
    (Lua("usual: another window ignored", "calendar == current_calendar", "calendar % CALENDAR_BASE == today"), period),
    (Lua("usual: a newer day ignored", "calendar == current_calendar", "calendar <= current_calendar"), metering),
    (Lua("usual: a newer day ignored, no quota", "calendar % CALENDAR_BASE == today", "calendar > 0"), metering),
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
        Lua("usual: expiries not renewed", "if last < step_start then", "if last == 0 then"),
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
    (
        Lua(
            "expiries end before a bucket is full",
            "(2 * EXPIRY_STEP_US + fill_us[i]) / 1000",
            "2 * EXPIRY_STEP_US / 1000",
        ),
        renewal,
    ),
)
"""Bugs in inline/fast_path.lua, and in what check.lua does with its decision."""

AT_ONCE = (
    (
        Many(
            "shared state not carried",
            "shared_states[bucket_key] = pack_doubles('<ddd', unpack(numbers, 7 * i - 6, 7 * i - 4))",
            "",
        ),
        at_once,
    ),
    (
        Many(
            "shared state not written",
            "for bucket_key, callers_us in pairs(charged_by) do",
            "for bucket_key, callers_us in pairs({}) do",
        ),
        at_once,
    ),
    (Many("the key's state not carried", "hash_values[2] = new_plan", ""), at_once),
    (
        Many(
            "the key's state not written",
            "for key in pairs(is_changed) do write_hash(key, hashes[key], fields_at[key]) end",
            "",
        ),
        at_once,
    ),
    (Many("denied, but charged", "if reply and not denied then", "if reply then"), at_once),
    (Many("a key that is met once not written", "call('HSET', key, plan_field, new_plan)", ""), keys_at_once),
    (Many("nor with its methods", "          write_hash(key, hash_values, template_at)\n", ""), keys_at_once),
    (
        Many(
            "all taken for the first question",
            "if template_numbers ~= '' then number, key_repeats = byte(template_numbers, 2 * check - 1, 2 * check) end",
            "",
        ),
        methods_at_once,
    ),
    (
        Many(
            "buckets of methods not carried",
            "hash_values[i + 2] = sub(reply, at - BUCKET_SIZE + 1, at)",
            "",
        ),
        methods_at_once,
    ),
    (
        Many(
            "another question, and what is not yet written is lost",
            "if is_changed[key] then write_hash(key, hash_values, at) end",
            "",
        ),
        methods_at_once,
    ),
    (
        Many(
            "one question taken for another",
            "same = same and ARGV[at + i] == ARGV[template_at + i]",
            "same = same",
        ),
        methods_at_once,
    ),
    (Many("left out, but overtaken", "is_next = is_next and not deferred[KEYS[i]]", "is_next = is_next"), overtaking),
    (Many("only the key's own checks wait", "deferred[KEYS[i]] = true end", "end"), overtaking),
    (
        Many(
            "version tokens not compared",
            "hash_values[1] == sub(version_tokens, VERSION_TOKEN_SIZE * (check - 1) + 1, VERSION_TOKEN_SIZE * check)",
            "true",
        ),
        obeying_at_once,
    ),
    (Many("keys never expire", "(valid_until == 0 or now < valid_until)", "true"), obeying_at_once),
    (Many("set without an expiry", "elseif shared_fill_us[bucket_key] then", "elseif false then"), renewal),
    (
        Many(
            "expiries end before a bucket is full",
            "(2 * EXPIRY_STEP_US + shared_fill_us[bucket_key]) / 1000",
            "2 * EXPIRY_STEP_US / 1000",
        ),
        renewal,
    ),
    (
        Many(
            "an expiry with every charge",
            "shared_fill_us[bucket_key] = shared_fill_us[bucket_key] or fill_us and fill_us[i]",
            "shared_fill_us[bucket_key] = 1000000000",
        ),
        renewal,
    ),
)
"""Bugs in check_many.lua."""
