-- check: admit or refuse one request against every limit that applies to it, all or nothing.
--
-- KEYS[1]    hash of the API key, if flag 1 is set
-- KEYS[..]   then the buckets that all callers share; last the stream of alerts, if flag 8 is set
-- ARGV[1]    request: now_us, cost, valid_until_us, flags; of the plan: burst, rate, per, quota, and the first days
--            of three windows (11 doubles); identity (26 bytes); burst, rate, per of each further bucket (3 doubles
--            each), those in the key's hash first, then the shared ones; if flag 4 is set, burst, rate, per, quota and
--            three days of the plan's shadow (7 doubles); if flag 8 is set, percentage and count of each alert
-- ARGV[2]    hash field of the plan's state, if flag 1 is set
-- ARGV[3..]  hash fields of the further buckets in the key's hash; if flag 4 is set, the shadow's state; if flag 16
--            is set, the shadow's bucket of the method
-- returns    the new states of the plan and of each further bucket, joined    admitted, and nothing was unusual
-- returns    {1 | 2, now_us, limits}         admitted; 2: and a day of metering is over
-- returns    {0 | 3, now_us, limits}         denied; 3: would be admitted, and nothing was to be consumed
-- returns    {-1 | -2 | -3 | -4, now_us}     look again; nothing is consumed
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <field or key>
--
-- Limits are in the order: the plan's bucket, further buckets, the quota. `limits` are two doubles for each, as it
-- stands now: of a bucket level (in units of 1/per) and last_us, of the quota what is left and its window's end in us.
-- lua/README.md is the contract in full.
-- Everything is read and judged before anything is written. Flat and with few functions on purpose: closures, growing
-- tables, numbers in replies and further ARGV are what the time of a script goes into.

-- @include lib/packing

local DAY_US = 86400000000
local KEPT_US = 30000000

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local request, key, field = ARGV[1], KEYS[1], ARGV[2]
if not request or #request < 114 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local now, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
  unpack_doubles('<ddddddddddd', request)
if not (cost >= 0) or cost % 1 ~= 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local under_callers_clock = now > 0
if not under_callers_clock then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local has_key, peeks, nothing_newer, has_shadow, has_alerts, shadow_has_bucket = true, cost == 0
if flags ~= 1 then
  -- Who does not know a flag must not decide without what it says. 32 is kept for callers without a stored key.
  if not (flags >= 0 and flags % 64 < 32 and flags < 128) then return redis.error_reply('RATELIMIT ARGUMENTS') end
  has_key, nothing_newer, peeks = flags % 2 == 1, flags % 4 >= 2, peeks or flags >= 64
  has_shadow, has_alerts, shadow_has_bucket = flags % 8 >= 4, flags % 16 >= 8, flags % 32 >= 16
end

-- 1. Read everything. Is the caller up to date about this key and about the catalogue?
local own_keys, own_buckets, own, new_identity = 0, 0
if has_key then
  own_keys, own_buckets = 1, #ARGV - 2
  if own_buckets == 0 and not has_shadow then
    own = call('HMGET', key, 'r', field)
  else
    if has_shadow then own_buckets = own_buckets - (shadow_has_bucket and 2 or 1) end
    if own_buckets < 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
    own = call('HMGET', key, 'r', unpack(ARGV, 2))
  end
  local found = own[1]
  if not found or #found ~= 26 or string.find(request, found, 89, true) ~= 89 then
    -- epoch (8 bytes) and version (10 digits) of the catalogue, then the stamp of the key's record (8 bytes)
    local KEY_CHANGED, CATALOG_BEHIND = -1, -2
    local identity = string.sub(request, 89, 114)
    if not found or string.sub(found, 19) ~= string.sub(identity, 19) then return { KEY_CHANGED, now } end
    local is_newer = string.sub(found, 9, 18) > string.sub(identity, 9, 18)
    if not nothing_newer and (is_newer or string.sub(found, 1, 8) ~= string.sub(identity, 1, 8)) then
      -- Or what the key was charged under is gone, with another life of the catalogue or with what a server lost. Only
      -- a caller that was told so under this identity, and then found nothing newer (flag 2), knows.
      return { CATALOG_BEHIND, now }
    end
    new_identity = identity
  end
  if valid_until > 0 and now >= valid_until then
    local KEY_EXPIRED = -4
    return { KEY_EXPIRED, now }
  end
end
local buckets = own_buckets + #KEYS - own_keys
if has_alerts then buckets = buckets - 1 end
local shadow_at = 115 + 24 * buckets
local alerts_at = shadow_at
if has_shadow or #request ~= shadow_at - 1 then
  if has_shadow then alerts_at = shadow_at + 56 end
  local rest = #request + 1 - alerts_at
  if rest ~= 0 and (not has_alerts or rest < 0 or rest % 16 ~= 0) then
    return redis.error_reply('RATELIMIT ARGUMENTS')
  end
end
local states
if buckets > 0 then
  states = { nil, nil, nil }
  for i = 1, buckets do
    local state, place
    if i <= own_buckets then
      state, place = own[i + 2], ARGV[i + 2]
    else
      place = KEYS[own_keys + i - own_buckets]
      state = call('GET', place)
    end
    if state and #state ~= 24 then return redis.error_reply('RATELIMIT CORRUPT ' .. place) end
    states[i] = state
  end
end

-- 2. Judge.
local reply, refused, plan, packed, fill_us, shadow, shadow_bucket, closed_day, closed_figures
if own and not has_shadow and not peeks then
  local possible, today, this_calendar, window_end, full, price, numbers
  -- @include lib/terms
  if buckets > 0 then
    local first_held, last_held = 1, buckets
    -- @include lib/held
  end
  -- @include lib/usual
  if refused then return reply end
  if reply and own_buckets > 0 then
    packed = {}
    for i = 1, buckets do packed[i] = string.sub(reply, 33 + 24 * i, 56 + 24 * i) end
  end
end
if not reply then
  -- @include lib/token_bucket
  -- @include lib/quota_window
  -- @include lib/general
end

-- 3. Write.
if plan and own_buckets == 0 and not new_identity and not closed_day and not shadow then
  call('HSET', key, field, plan)
elseif own then
  local fields = {}
  if plan then fields[1], fields[2] = field, plan end
  for i = 1, own_buckets do
    if packed[i] then fields[#fields + 1], fields[#fields + 2] = ARGV[i + 2], packed[i] end
  end
  if plan and not refused and new_identity then fields[#fields + 1], fields[#fields + 2] = 'r', new_identity end
  if closed_day then
    -- "p:gold" counts; "d:gold:20500" keeps a day that is over, until somebody moves it to the archive.
    fields[#fields + 1] = string.format('d%s:%.0f', string.sub(field, 2), closed_day)
    fields[#fields + 1] = closed_figures
  end
  if shadow then fields[#fields + 1], fields[#fields + 2] = ARGV[own_buckets + 3], shadow end
  if shadow_bucket then fields[#fields + 1], fields[#fields + 2] = ARGV[own_buckets + 4], shadow_bucket end
  if #fields > 0 then call('HSET', key, unpack(fields)) end
end
for i = own_buckets + 1, buckets do
  local place, state = KEYS[own_keys + i - own_buckets], nil
  if packed then
    state = packed[i]
  else
    state = string.sub(reply, 33 + 24 * i, 56 + 24 * i)
  end
  if state and under_callers_clock then
    call('SET', place, state)
  elseif state and fill_us and fill_us[i] then
    -- Kept until it is full again, when no state means the same. Not under a caller's clock: Redis goes by its own.
    local milliseconds = (2 * KEPT_US + fill_us[i]) / 1000
    call('SET', place, state, 'PX', milliseconds - milliseconds % 1)
  elseif state then
    -- Its expiry was set less than KEPT_US ago: an expiry costs more than all else here.
    call('SETRANGE', place, '0', state)
  end
end
if has_alerts and plan and not refused then
  -- @include lib/alerts
  local _, _, _, calendar, used, granted = unpack_doubles('<dddddd', plan)
  local window = (calendar - calendar % 1048576) / 1048576
  local told = 'a' .. string.sub(field, 2)
  tell_crossed(struct, request, alerts_at, used - cost, used, told, window, quota + granted, now, KEYS[#KEYS])
end
return reply
