-- check: admit or deny one request against every limit that applies to it, all or nothing.
--
-- KEYS[1]    hash of the API key or identity, if flag 1 is set
-- KEYS[..]   then the shared buckets; last the stream of alerts, if flag 8 is set (or, where that lies in another
--            slot, the hash again), or the counted identities, if flag 128 is
-- ARGV[1]    request: now_us, cost, valid_until_us (with flag 32 for how long an identity is kept at least), flags; of
--            the plan: burst, rate, per, quota, and the first days of three windows (11 doubles); version token (26
--            bytes); burst, rate, per of each further bucket (3 doubles each), those in the key's hash first, then the
--            shared ones; if flag 4 is set, burst, rate, per, quota and three days of the plan's shadow (7 doubles); if
--            flag 8 is set, percentage and count of each alert; if flag 128 is set, how many identities the plan may
--            have, and one of how many is counted
-- ARGV[2]    hash field of the plan's state, if flag 1 is set
-- ARGV[3..]  hash fields of the further buckets in the key's hash; if flag 4 is set, the shadow's state; if flag 16 is
--            set, the shadow's bucket of the method; if flag 256 is set, the note of the lease that is requested, and
--            the one of a lease that is over, or ''
-- returns    the new states of the plan and of each further bucket, joined    admitted by the fast path
-- returns    {1 | 2, now_us, limits}         admitted; 2: and a day of metering is over
-- returns    {0 | 3, now_us, limits}         denied; 3: would be admitted, and nothing was to be consumed
-- returns    {4, now_us, limits}             denied: the plan has as many identities as it may have
-- returns    {-1 | -2 | -3 | -4, now_us}     look again: key changed, catalogue behind, windows past, key expired;
--            nothing is consumed
-- returns    {-6, now_us}                    no lease: it was returned, or too many are out; nothing is consumed
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <field or key>
--
-- Limits are in the order: the plan's bucket, further buckets, the quota. `limits` are two doubles for each, as it
-- stands now: of a bucket level (in units of 1/per) and last_us, of the quota what is left and its window's end in us.
-- lua/PROTOCOL.md is the contract in full.
-- Everything is read and judged before anything is written. Flat and with few functions on purpose: closures, growing
-- tables, numbers in replies and further ARGV are what a script spends its time on.

-- @include lib/constants
-- @include lib/packing

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local request, key, plan_field = ARGV[1], KEYS[1], ARGV[2]
if not request or #request < HEAD_SIZE then return redis.error_reply('RATELIMIT ARGUMENTS') end
local now, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
  unpack_doubles('<ddddddddddd', request)
if not (cost >= 0) or cost % 1 ~= 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local under_callers_clock = now > 0
if not under_callers_clock then
  -- @inline inline/server_time
end
local has_key, peeks, nothing_newer, has_shadow, has_alerts, shadow_has_bucket, shadow_size, is_identity, is_lease,
  is_bounded, has_more, other_fields, outdated = true, cost == 0
if flags ~= 1 then -- 1: there is an API key, and nothing else is set
  if flags >= 0 and flags < 256 then
    has_key, nothing_newer, peeks = flags % 2 == 1, flags % 4 >= 2, peeks or flags % 128 >= 64
    has_shadow, has_alerts, shadow_has_bucket = flags % 8 >= 4, flags % 16 >= 8, flags % 32 >= 16
    shadow_size, is_identity, is_bounded = 0, flags % 64 >= 32, flags >= 128
    if has_shadow then shadow_size, other_fields = 56, shadow_has_bucket and 2 or 1 end
    -- An identity has a hash, without shadow and alerts; identities alone are bounded.
    if is_identity and (not has_key or has_shadow or has_alerts) or is_bounded and not is_identity then
      return redis.error_reply('RATELIMIT ARGUMENTS')
    end
    has_more = has_shadow or has_alerts or is_identity
  else
    -- A lease, of an API key, perhaps with alerts. An unsupported flag may stand for a limit, so it is an error.
    flags, has_alerts = flags - 256, flags == 265
    if peeks or flags ~= 1 and flags ~= 9 then return redis.error_reply('RATELIMIT ARGUMENTS') end
    is_lease, has_more, other_fields, shadow_size = true, true, 2, 0
  end
end

-- 1. Read everything. Is the caller up to date about this key and about the catalogue?
-- hash_values: version token, the plan's state, then the buckets in the key's hash, then the shadow's, or the notes of
-- leases.
local hash_keys, key_buckets, hash_values, new_token = 0, 0
if has_key then
  hash_keys = 1
  key_buckets = #ARGV - 2
  if key_buckets == 0 and not other_fields then
    hash_values = call('HMGET', key, 'r', plan_field)
  else
    if other_fields then key_buckets = key_buckets - other_fields end
    if key_buckets < 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end
    hash_values = call('HMGET', key, 'r', unpack(ARGV, 2))
  end
  local stored_token = hash_values[1]
  if not stored_token or #stored_token ~= VERSION_TOKEN_SIZE
    or string.find(request, stored_token, VERSION_TOKEN_AT, true) ~= VERSION_TOKEN_AT
  then
    -- @inline inline/compare_versions
  end
  if valid_until > 0 and now >= valid_until and not is_identity then
    -- @inline inline/retry_statuses
    return { KEY_EXPIRED, now }
  end
end
local buckets = key_buckets + #KEYS - hash_keys
if has_more and (has_alerts or is_bounded) then buckets = buckets - 1 end
local limits_end = HEAD_SIZE + BUCKET_SIZE * buckets
if has_more or #request ~= limits_end then
  local rest = #request - limits_end - (shadow_size or 0)
  if is_bounded and rest ~= 16
    or not is_bounded and (rest < 0 or rest % 16 ~= 0 or rest ~= 0 and not has_alerts)
  then
    return redis.error_reply('RATELIMIT ARGUMENTS')
  end
  if is_lease then
    -- @include lib/lease_notes
    outdated = hash_values[key_buckets + 4] and { ARGV[key_buckets + 4] } or outdated_notes(key, now)
    if hash_values[key_buckets + 3] or not outdated then return { NO_LEASE, now } end
  end
end
local states
if buckets > 0 then
  states = { nil, nil, nil }
  for i = 1, buckets do
    local state, field_or_key
    if i <= key_buckets then
      state, field_or_key = hash_values[i + 2], ARGV[i + 2]
    else
      field_or_key = KEYS[hash_keys + i - key_buckets]
      state = call('GET', field_or_key)
    end
    if state and #state ~= BUCKET_SIZE then return redis.error_reply('RATELIMIT CORRUPT ' .. field_or_key) end
    states[i] = state
  end
end

-- 2. Judge.
local reply, denied, new_plan, new_buckets, fill_us, new_shadow, new_shadow_bucket, closed_day, closed_day_state
if hash_values and not has_shadow and not peeks then
  local eligible, today, current_calendar, window_end, full, price, numbers
  -- @inline inline/request_terms
  if buckets > 0 then
    local first_bucket, last_bucket = 1, buckets
    -- @inline inline/load_buckets
  end
  -- @inline inline/fast_path
  if denied then return reply end
  if reply and key_buckets > 0 then
    new_buckets = {}
    for i = 1, buckets do
      local at = PLAN_STATE_SIZE + BUCKET_SIZE * i
      new_buckets[i] = string.sub(reply, at - BUCKET_SIZE + 1, at)
    end
  end
end
if not reply then
  -- @include lib/token_bucket
  -- @include lib/quota_window
  -- @inline inline/slow_path
end

-- 3. Write.
if new_plan and not new_token and not new_buckets then
  call('HSET', key, plan_field, new_plan)
elseif hash_values then
  local fields = {}
  if new_plan then fields[1], fields[2] = plan_field, new_plan end
  for i = 1, key_buckets do
    if new_buckets[i] then fields[#fields + 1], fields[#fields + 2] = ARGV[i + 2], new_buckets[i] end
  end
  if new_plan and not denied and new_token then fields[#fields + 1], fields[#fields + 2] = 'r', new_token end
  if closed_day then
    -- "p:gold" counts; "d:gold:20500" keeps a day that is over, until archive.lua moves it.
    fields[#fields + 1] = string.format('d%s:%.0f', string.sub(plan_field, 2), closed_day)
    fields[#fields + 1] = closed_day_state
  end
  if new_shadow then fields[#fields + 1], fields[#fields + 2] = ARGV[key_buckets + 3], new_shadow end
  if new_shadow_bucket then fields[#fields + 1], fields[#fields + 2] = ARGV[key_buckets + 4], new_shadow_bucket end
  if #fields > 0 then call('HSET', key, unpack(fields)) end
end
for i = key_buckets + 1, buckets do
  local bucket_key, state = KEYS[hash_keys + i - key_buckets], nil
  if new_buckets then
    state = new_buckets[i]
  else
    local at = PLAN_STATE_SIZE + BUCKET_SIZE * i
    state = string.sub(reply, at - BUCKET_SIZE + 1, at)
  end
  if state and under_callers_clock then
    call('SET', bucket_key, state)
  elseif state and fill_us and fill_us[i] then
    -- It expires once it is full, when no state means the same. Not under a caller's clock: Redis goes by its own.
    local milliseconds = (2 * EXPIRY_STEP_US + fill_us[i]) / 1000
    call('SET', bucket_key, state, 'PX', milliseconds - milliseconds % 1)
  elseif state then
    -- Its expiry was set less than EXPIRY_STEP_US ago: an expiry costs more than all else here.
    call('SETRANGE', bucket_key, '0', state)
  end
end
if has_more and new_plan and not denied and (is_identity or has_alerts or is_lease) then
  local _, _, _, calendar, used, granted = unpack_doubles('<dddddd', new_plan)
  local window, day
  -- @inline inline/unpack_calendar
  if is_identity then
    -- @inline inline/keep_identity
  else
    if has_alerts then
      -- @include lib/alerts
      local field, stream, alerts_at = 'a' .. string.sub(plan_field, 2), KEYS[#KEYS], limits_end + shadow_size + 1
      report_crossed(struct, request, alerts_at, used - cost, used, field, window, quota + granted, now, stream)
    end
    if is_lease then
      for _, note_field in ipairs(outdated) do call('HDEL', key, note_field) end
      local note = pack_doubles('<dddd', cost, now, quota >= 0 and window or -1, day)
      call('HSET', key, ARGV[key_buckets + 3], note)
    end
  end
end
return reply
