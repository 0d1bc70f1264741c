-- charge_journal: charge one entry of a journal: what a process admitted by itself while Redis did not answer.
--
-- KEYS[1]    hash of the API key or identity, if flag 1 is set; else the ids of entries without a key, a hash
-- KEYS[..]   then the archive of the key's closed days, if flag 1 is set and 32 is not; the shared buckets; last the
--            stream of alerts, if flag 8 is set (or, where that lies in another slot, the hash again), or the counted
--            identities, if flag 128 is
-- ARGV[1]    request, as for check.lua, without a shadow; the first of its windows is the one that holds spent_us
-- ARGV[2]    hash field of the plan's state, if flag 1 is set
-- ARGV[3..]  hash fields of the further buckets in the key's hash; then the life of the process: 8 characters, random,
--            new with each start; last sequence, the number of the entry, from 1, rising within a life, and spent_us,
--            the server's time at which it was spent (2 doubles)
-- returns    {5, now_us}          charged
-- returns    {6, now_us}          charged before; nothing is written
-- returns    {-1 | -2, now_us}    look again: key changed, catalogue behind; nothing is written
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <field or key>
--
-- It never denies: the requests were admitted. A bucket is charged below zero, down to minus its burst, in one step. A
-- quota is charged in the window that the units were spent in, and not at all once a later one has begun; metering is
-- on the day that they were spent on. The hash holds the highest sequence of each life, so an entry that is sent again,
-- because its reply was lost, is charged once.

-- @include lib/constants
-- @include lib/packing
-- @include lib/validity
-- @include lib/token_bucket
-- @include lib/alerts

local JOURNAL_CHARGED, JOURNAL_CHARGED_BEFORE = 5, 6
local ID_SIZE, LIFE_SIZE, NO_QUOTA = 16, 8, -1
-- @inline inline/closed_day_size

local function corrupt(field_or_key) return redis.error_reply('RATELIMIT CORRUPT ' .. field_or_key) end

-- 1. What is to be charged?
local call, key, request, life, entry = redis.call, KEYS[1], ARGV[1], ARGV[#ARGV - 1], ARGV[#ARGV]
if #ARGV < 3 or #request < HEAD_SIZE or #life ~= LIFE_SIZE or #entry ~= ID_SIZE then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local now, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day =
  unpack_doubles('<dddddddddd', request)
local sequence, spent_us = unpack_doubles('<dd', entry)
local spent_day = (spent_us - spent_us % DAY_US) / DAY_US
if not (cost >= 1 and cost % 1 == 0 and sequence >= 1 and sequence <= MAX_INTEGER and sequence % 1 == 0)
  or not (spent_us >= 0 and spent_us <= MAX_INTEGER and spent_us % 1 == 0)
  or quota >= 0 and not (first_day <= spent_day and spent_day < second_day)
then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
-- Flags of a shadow (4, 16) and of a peek (64) are errors: a shadow judges requests one by one, as they are admitted.
local nothing_newer = flags % 4 >= 2
local kind = nothing_newer and flags - 2 or flags
local has_key, has_alerts, is_identity, is_bounded = kind > 0, kind == 9, kind == 33 or kind == 161, kind == 161
if not (kind == 0 or kind == 1 or has_alerts or is_identity) then return redis.error_reply('RATELIMIT ARGUMENTS') end
local plan_field, key_buckets, own_keys = ARGV[2], 0, 1
if has_key then key_buckets, own_keys = #ARGV - 4, is_identity and 1 or 2 end
local buckets = key_buckets + #KEYS - own_keys
if has_alerts or is_bounded then buckets = buckets - 1 end
local limits_end = HEAD_SIZE + BUCKET_SIZE * buckets
local rest = #request - limits_end
if is_bounded then rest = rest - 16 end
if key_buckets < 0 or buckets < key_buckets or not has_key and #ARGV ~= 3
  or rest < 0 or rest % 16 ~= 0 or rest ~= 0 and not has_alerts
then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local under_callers_clock = now > 0
if not under_callers_clock then
  -- @inline inline/server_time
end

-- 2. Was it charged before? Is the caller up to date about this key and about the catalogue?
local hash, names_and_values, outdated = {}, call('HGETALL', key), {}
for at = 1, #names_and_values, 2 do
  local field, value = names_and_values[at], names_and_values[at + 1]
  hash[field] = value
  if string.sub(field, 1, 2) == 'j:' and #value == ID_SIZE then
    -- A process that sends an entry again does so within a day.
    local _, charged_us = unpack_doubles('<dd', value)
    if now - charged_us > DAY_US then outdated[#outdated + 1] = field end
  end
end
local id_field = 'j:' .. ARGV[#ARGV - 1]
local id = hash[id_field]
if id then
  if #id ~= ID_SIZE or not are_integers(unpack_doubles('<dd', id)) then return corrupt(id_field) end
  if sequence <= unpack_doubles('<dd', id) then return { JOURNAL_CHARGED_BEFORE, now } end
end
local new_token
if has_key then
  local stored_token = hash.r
  if stored_token ~= string.sub(request, VERSION_TOKEN_AT, HEAD_SIZE) then
    -- @inline inline/compare_versions
  end
end

-- 3. Charge everything; nothing is written before all that is read was found to be valid.
local fields, new_buckets, fill_us = { id_field, pack_doubles('<dd', sequence, now) }, {}, {}

-- Level and last_us of a bucket after the charge, and the time until it is full.
local function charged(old_per, old_level, old_last, burst, rate, new_per)
  local full = burst * new_per
  local new_level, new_last = bucket_at(old_per, old_level, old_last, burst, rate, new_per, now)
  -- One that is lower already, since its burst was larger, is not raised.
  new_level = math.min(new_level, math.max(lowest_level(full), new_level - cost * new_per))
  return new_level, new_last, rate > 0 and (full - new_level) / rate or 0
end

local per, level, last_us, calendar, used, granted, day_used, plan_fill_us = 0, 0, 0, 0, 0, 0, 0, 0
local plan_state = has_key and hash[plan_field]
if plan_state then
  if #plan_state ~= PLAN_STATE_SIZE or not is_plan_state(unpack_doubles('<ddddddd', plan_state)) then
    return corrupt(plan_field)
  end
  per, level, last_us, calendar, used, granted, day_used = unpack_doubles('<ddddddd', plan_state)
end
if has_key and plan_per > 0 then
  level, last_us, plan_fill_us = charged(per, level, last_us, plan_burst, plan_rate, plan_per)
  per = plan_per
end
for i = 1, buckets do
  local field_or_key, state
  if i <= key_buckets then
    field_or_key = ARGV[i + 2]
    state = hash[field_or_key]
  else
    field_or_key = KEYS[own_keys + i - key_buckets]
    state = call('GET', field_or_key)
  end
  local old_per, old_level, old_last = 0 -- no state means full
  if state then
    if #state ~= BUCKET_SIZE or not is_bucket(unpack_doubles('<ddd', state)) then return corrupt(field_or_key) end
    old_per, old_level, old_last = unpack_doubles('<ddd', state)
  end
  local burst, rate, new_per = unpack_doubles('<ddd', request, HEAD_SIZE + BUCKET_SIZE * (i - 1) + 1)
  local new_level, new_last
  new_level, new_last, fill_us[i] = charged(old_per, old_level, old_last, burst, rate, new_per)
  new_buckets[i] = pack_doubles('<ddd', new_per, new_level, new_last)
  if i <= key_buckets then fields[#fields + 1], fields[#fields + 2] = field_or_key, new_buckets[i] end
end

-- The quota, in the window of spent_us, which is the process' estimate. A window that has not begun by this clock is no
-- new count: the state's own goes on.
local window, day
-- @inline inline/unpack_calendar
local left_before, is_quota_charged = NO_QUOTA, has_key and quota >= 0
if is_quota_charged then
  left_before = math.max(0, quota + granted - used)
  local stored_start = (window - window % WINDOW_BASE) / WINDOW_BASE
  local spent_window = first_day * WINDOW_BASE + second_day - first_day
  if window ~= spent_window and spent_day < stored_start then
    is_quota_charged = false
  elseif window ~= spent_window and (window == 0 or first_day * DAY_US <= now) then
    window, used, granted = spent_window, 0, 0
  end
  if is_quota_charged then used = math.min(used + cost, MAX_INTEGER) end
end

-- Metering. Days only roll forward, and not beyond this clock's. One that is over is field "d:gold:20500" of the hash,
-- or "gold:20500" of the archive once archive.lua has moved it.
local closed_days, corrupt_field = {}, nil

-- Where a closed day is, an index of KEYS and a field; its units, and what was left of the quota: nil if it is absent.
local function closed_day(its_day)
  local field = string.format('d%s:%.0f', string.sub(plan_field, 2), its_day)
  local index, state = 1, hash[field]
  if not state then
    state = call('HGET', KEYS[own_keys], string.sub(field, 3))
    if not state then return 1, field end
    index, field = own_keys, string.sub(field, 3)
  end
  if #state ~= CLOSED_DAY_SIZE or not are_integers(unpack_doubles('<dd', state)) then
    corrupt_field = field
    return index, field
  end
  return index, field, unpack_doubles('<dd', state)
end

if has_key then
  local today = (now - now % DAY_US) / DAY_US
  local charged_day = spent_day
  if spent_day > day then charged_day = math.min(spent_day, math.max(day, today)) end
  if charged_day > day then
    if day > 0 and not is_identity then
      local field = string.format('d%s:%.0f', string.sub(plan_field, 2), day)
      closed_days[1] = { 1, field, pack_doubles('<dd', day_used, left_before) }
    end
    day, day_used = charged_day, 0
  end
  if charged_day == day then
    day_used = math.min(day_used + cost, MAX_INTEGER)
  elseif not is_identity then
    -- The units count for that day, and so much less was left of the quota on it and on later days of its window.
    local first, last, left_then = spent_day, spent_day, quota
    if quota >= 0 then first, last = first_day, math.min(day, second_day) - 1 end
    for its_day = first, last do
      local index, field, units, left = closed_day(its_day)
      if corrupt_field then return corrupt(corrupt_field) end
      if its_day < spent_day then
        if left and left >= 0 then left_then = left end
      elseif units or its_day == spent_day then
        units, left = units or 0, left or left_then
        if its_day == spent_day then units = math.min(units + cost, MAX_INTEGER) end
        if quota >= 0 and left > 0 then left = math.max(0, left - cost) end
        closed_days[#closed_days + 1] = { index, field, pack_doubles('<dd', units, left) }
      end
    end
  end
  calendar = window * CALENDAR_BASE + day
  fields[#fields + 1] = plan_field
  fields[#fields + 1] = pack_doubles('<ddddddd', per, level, last_us, calendar, used, granted, day_used)
  if new_token then fields[#fields + 1], fields[#fields + 2] = 'r', new_token end
end

-- 4. Write.
call('HSET', key, unpack(fields))
for _, field in ipairs(outdated) do
  if field ~= id_field then call('HDEL', key, field) end
end
for _, closed in ipairs(closed_days) do call('HSET', KEYS[closed[1]], closed[2], closed[3]) end
for i = key_buckets + 1, buckets do
  local bucket_key = KEYS[own_keys + i - key_buckets]
  if under_callers_clock then
    call('SET', bucket_key, new_buckets[i])
  else
    call('SET', bucket_key, new_buckets[i], 'PX', math.floor((2 * EXPIRY_STEP_US + fill_us[i]) / 1000))
  end
end
if has_alerts and is_quota_charged then
  local field, stream = 'a' .. string.sub(plan_field, 2), KEYS[#KEYS]
  report_crossed(struct, request, limits_end + 1, used - cost, used, field, window, quota + granted, now, stream)
end
local reply = { JOURNAL_CHARGED, now }
if is_identity then
  -- Its hash lives until the plan's bucket is full, which takes longer from below zero.
  local hash_values = {}
  valid_until, plan_per = math.max(valid_until, plan_fill_us + 2 * EXPIRY_STEP_US), 0
  -- @inline inline/keep_identity
elseif not has_key and not under_callers_clock then
  call('PEXPIRE', key, DAY_US / 1000)
end
return reply
