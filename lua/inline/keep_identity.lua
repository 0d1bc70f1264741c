-- keep_identity: of an identity that was charged, lets the hash live until it says no more than an absent one, and
-- counts it among those of its plan.
--
-- Reads   call, now, under_callers_clock, request, limits_end, key, key_buckets, hash_values, new_token, reply
-- Reads   plan_burst, plan_rate, plan_per, quota, window, fill_us, is_bounded
-- Reads   valid_until    of an identity how long its hash is kept at least
--
-- An expiry is only ever put off, and at most once in EXPIRY_STEP_US as long as the same limits are charged. Under a
-- caller's clock nothing expires: Redis goes by its own.
local is_due = type(reply) == 'table' or new_token
if not is_due and (plan_per > 0 or key_buckets == 0) then
  local _, _, last = unpack_doubles('<ddd', hash_values[2])
  is_due = last < now - now % EXPIRY_STEP_US
end
local lifetime = 0
if plan_per > 0 then lifetime = plan_burst * plan_per / plan_rate end
for i = 1, key_buckets do
  if fill_us and fill_us[i] then is_due, lifetime = true, math.max(lifetime, fill_us[i]) end
end
if is_due then
  if quota >= 0 then
    local days = window % WINDOW_BASE
    lifetime = math.max(lifetime, ((window - days) / WINDOW_BASE + days) * DAY_US - now)
  end
  lifetime = math.max(lifetime + 2 * EXPIRY_STEP_US, valid_until)
  local milliseconds, is_counted = math.floor(lifetime / 1000), false
  if not under_callers_clock and call('PTTL', key) < milliseconds then call('PEXPIRE', key, milliseconds) end
  if is_bounded then
    -- One of so many, chosen by bits of the digest, so that every process chooses the same.
    local _, one_in = unpack_doubles('<dd', request, limits_end + 1)
    local digits, number = 'BCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_', 0
    for at = -5, -3 do number = number * 64 + (string.find(digits, string.sub(key, at, at), 1, true) or 0) end
    is_counted = number % one_in == 0
  end
  if is_counted then
    -- Everything is charged by now: what cannot be counted must not fail the check.
    local counted, ends_us = KEYS[#KEYS], '+inf'
    if not under_callers_clock then
      ends_us = now + milliseconds * 1000
      redis.pcall('ZREMRANGEBYSCORE', counted, '-inf', now)
    end
    redis.pcall('ZADD', counted, ends_us, string.sub(key, -23, -2))
    if not under_callers_clock and call('PTTL', counted) < milliseconds then call('PEXPIRE', counted, milliseconds) end
  end
end
