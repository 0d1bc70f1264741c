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
-- returns    {1 | 2, now_us, for each limit: remaining, reset_us}            admitted; 2: and a day of metering is over
-- returns    {0 | 3, now_us, for each limit: remaining, reset_us, wait_us}   denied; 3: cost 0, would be admitted
-- returns    {-1 | -2 | -3 | -4, now_us}                                     look again; nothing is consumed
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <field or key>
--
-- Limits are in the order: the plan's bucket, further buckets, the quota. lua/README.md is the contract in full.
-- Everything is read and judged before anything is written. Flat and with few functions on purpose: closures, growing
-- tables and further ARGV are what the time of a script goes into.

-- @include lib/packing
-- @include lib/token_bucket
-- @include lib/quota_window

local KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
local DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
local NEVER, NO_QUOTA = -1, -1
local MOST = 9007199254740991 -- beyond, numbers are not whole any more
local DAY_US = 86400000000
local KEPT_MS = 60000

local request = ARGV[1]
if not request or #request < 114 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local now, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
  struct.unpack('<ddddddddddd', request)
if not (cost >= 0) or cost % 1 ~= 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local under_callers_clock = now > 0
if not under_callers_clock then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local has_key, catalog_is_fresh = flags % 2 == 1, flags % 4 >= 2
local has_shadow, has_alerts, shadow_has_bucket = flags % 8 >= 4, flags % 16 >= 8, flags >= 16

-- 1. Read everything. Is the caller up to date about this key and about the catalogue?
local own, own_keys, own_buckets, new_identity = nil, 0, 0, nil
if has_key then
  own_keys, own_buckets = 1, #ARGV - 2
  if has_shadow then own_buckets = own_buckets - 1 end
  if shadow_has_bucket then own_buckets = own_buckets - 1 end
  if own_buckets < 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
  own = redis.call('HMGET', KEYS[1], 'r', unpack(ARGV, 2))
  local identity, found = string.sub(request, 89, 114), own[1]
  if found ~= identity then
    -- epoch (8 bytes) and version (10 digits) of the catalogue, then the stamp of the key's record (8 bytes)
    if not found or string.sub(found, 19) ~= string.sub(identity, 19) then return { KEY_CHANGED, now } end
    if string.sub(found, 1, 8) == string.sub(identity, 1, 8) then
      if string.sub(found, 9, 18) > string.sub(identity, 9, 18) then return { CATALOG_BEHIND, now } end
    elseif not catalog_is_fresh then
      -- Another life of the catalogue: only a caller that has just loaded it (flag 2) knows which one holds.
      return { CATALOG_BEHIND, now }
    end
    new_identity = identity
  end
  if valid_until > 0 and now >= valid_until then return { KEY_EXPIRED, now } end
end
local buckets = own_buckets + #KEYS - own_keys
if has_alerts then buckets = buckets - 1 end
local shadow_at = 115 + 24 * buckets
local alerts_at = has_shadow and shadow_at + 56 or shadow_at
local left = #request + 1 - alerts_at
if left ~= 0 and (not has_alerts or left < 0 or left % 16 ~= 0) then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local states, packed, resets
if buckets > 0 then states, packed, resets = {}, {}, {} end
for i = 1, buckets do
  local state
  if i <= own_buckets then state = own[i + 2] else state = redis.call('GET', KEYS[own_keys + i - own_buckets]) end
  if state and #state ~= 24 then
    return redis.error_reply('RATELIMIT CORRUPT ' .. (i <= own_buckets and ARGV[i + 2] or KEYS[own_keys + i - own_buckets]))
  end
  states[i] = state
end

if has_shadow then
  local at = own_buckets + 3
  if own[at] and #own[at] ~= 64 then return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[at]) end
  if shadow_has_bucket and own[at + 1] and #own[at + 1] ~= 24 then
    return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[at + 1])
  end
  local its_quota, its_first, _, its_third = struct.unpack('<dddd', request, shadow_at + 24)
  if its_quota >= 0 and (now < its_first * DAY_US or now >= its_third * DAY_US) then return { WINDOWS_PAST, now } end
end

-- 2. Judge every limit as if each were charged `charge` units; if one refuses, once more without a charge.
local charge, asked = cost, cost
if cost == 0 then asked = 1 end -- cost 0 asks what cost 1 would get
local reply = { ADMITTED, now, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
local per, level, last, window, used, granted, day, day_used
local refused, bucket_moved, window_moved, closed_day, closed_figures
while true do
  local n = 2
  refused, bucket_moved, window_moved, closed_day = false, false, false, nil
  per, level, last, window, used, granted, day, day_used = 0, 0, 0, 0, 0, 0, 0, 0
  if own and own[2] then
    if #own[2] ~= 64 then return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[2]) end
    per, level, last, window, used, granted, day, day_used = struct.unpack('<dddddddd', own[2])
  end

  -- Token buckets: the plan's own, number 0, is part of its state.
  local first = 1
  if plan_per > 0 then first = 0 end
  for i = first, buckets do
    local burst, rate, new_per = plan_burst, plan_rate, plan_per
    local b_per, b_level, b_last, b_moved = per, level, last
    if i > 0 then
      burst, rate, new_per = struct.unpack('<ddd', request, 91 + 24 * i)
      b_per = 0
      if states[i] then b_per, b_level, b_last = struct.unpack('<ddd', states[i]) end
    end
    b_level, b_last, b_moved = bucket_at(b_per, b_level, b_last, burst, rate, new_per, now)
    local wait, remaining, reset = 0, 0, NEVER
    if rate == 0 or asked > burst then
      wait, refused = NEVER, true
    elseif asked * new_per > b_level then
      local missing = asked * new_per - b_level
      wait, refused = b_last - now + (missing + -missing % rate) / rate, true
    end
    b_level = b_level - charge * new_per
    if rate > 0 then
      local missing = burst * new_per - b_level
      remaining = (b_level - b_level % new_per) / new_per
      reset = b_last - now + (missing + -missing % rate) / rate
    end
    if i == 0 then
      per, level, last, bucket_moved = new_per, b_level, b_last, b_moved
    elseif charge > 0 or b_moved then
      packed[i] = struct.pack('<ddd', new_per, b_level, b_last)
      resets[i] = reset
    else
      packed[i] = nil
    end
    reply[n + 1], reply[n + 2] = remaining, reset
    n = n + 2
    if charge == 0 then
      n = n + 1
      reply[n] = wait
    end
  end

  -- The quota, and what its window ends with if this check opens the next one.
  local balance = NO_QUOTA
  if quota >= 0 then
    balance = math.max(0, quota + granted - used)
    local from, to, goes_on
    from, to, goes_on, window_moved = window_at(window, first_day, second_day, third_day, now)
    if not from then return { WINDOWS_PAST, now } end
    window = from * 64 + to - from
    if not goes_on then used, granted = 0, 0 end
    local wait, left = 0, quota + granted - used
    if asked > left then
      refused = true
      wait = to * DAY_US - now
      if asked > quota then wait = NEVER end
    end
    left = left - charge
    if left < 0 then left = 0 end
    reply[n + 1], reply[n + 2] = left, to * DAY_US - now
    if charge == 0 then reply[n + 3] = wait end
  end

  -- Metering. Days only roll forward; the figures of one that is over are kept in a field of their own.
  if charge > 0 and own then
    local today = (now - now % DAY_US) / DAY_US
    if today > day then
      if day > 0 then
        closed_day, closed_figures = day, struct.pack('<dd', day_used, balance)
      end
      day, day_used = today, 0
    end
    if quota >= 0 then used = used + charge end
    day_used = math.min(day_used + charge, MOST)
  end

  if not refused then break end
  reply[1] = DENIED
  if charge == 0 then break end
  charge = 0
end

-- 3. Write: everything if admitted; if denied, only what was re-anchored; nothing for cost 0.
if cost == 0 then
  if not refused then reply[1] = WOULD_ADMIT end
  return reply
end
local plan
if own and not refused then
  plan = struct.pack('<dddddddd', per, level, last, window, used, granted, day, day_used)
elseif bucket_moved or window_moved then
  local o_per, o_level, o_last, o_window, o_used, o_granted, o_day, o_day_used = struct.unpack('<dddddddd', own[2])
  if bucket_moved then o_per, o_level, o_last = per, level, last end
  if window_moved then o_window = window end
  plan = struct.pack('<dddddddd', o_per, o_level, o_last, o_window, o_used, o_granted, o_day, o_day_used)
end
if plan and own_buckets == 0 and not new_identity and not closed_day and not has_shadow then
  redis.call('HSET', KEYS[1], ARGV[2], plan)
elseif own then
  local fields = {}
  if plan then fields[1], fields[2] = ARGV[2], plan end
  for i = 1, own_buckets do
    if packed[i] then fields[#fields + 1], fields[#fields + 2] = ARGV[i + 2], packed[i] end
  end
  if not refused and new_identity then fields[#fields + 1], fields[#fields + 2] = 'r', new_identity end
  if closed_day then
    -- "p:gold" counts; "d:gold:20500" keeps a day that is over, until somebody moves it to the archive.
    fields[#fields + 1] = string.format('d%s:%.0f', string.sub(ARGV[2], 2), closed_day)
    fields[#fields + 1] = closed_figures
    reply[1] = ADMITTED_DAY_OVER
  end
  if has_shadow and not refused then
    -- @include lib/shadow
    local at, method_state = own_buckets + 3, nil
    if shadow_has_bucket then method_state = own[at + 1] end
    local shadow, bucket = shadowed(struct, request, shadow_at, own[at], method_state, now, cost)
    fields[#fields + 1], fields[#fields + 2] = ARGV[at], shadow
    if bucket then fields[#fields + 1], fields[#fields + 2] = ARGV[at + 1], bucket end
  end
  if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
end
for i = own_buckets + 1, buckets do
  local key = KEYS[own_keys + i - own_buckets]
  if packed[i] and under_callers_clock then
    redis.call('SET', key, packed[i])
  elseif packed[i] then
    -- Kept until it is full again, when no state means the same. Not under a caller's clock: Redis goes by its own.
    local milliseconds = resets[i] > 0 and resets[i] / 1000 or 0
    redis.call('SET', key, packed[i], 'PX', KEPT_MS + milliseconds - milliseconds % 1)
  end
end
if has_alerts and not refused then
  -- @include lib/alerts
  local field = 'a' .. string.sub(ARGV[2], 2)
  tell_crossed(struct, request, alerts_at, used - cost, used, field, window, quota + granted, now, KEYS[#KEYS])
end
return reply
