-- return_lease: refund what is left of a lease: units that check.lua charged and nobody spent.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- KEYS[3..]  shared buckets that were charged; none once the caller has another catalogue
-- ARGV[1]    now_us (0: the server's clock), units, microseconds since the request for the lease by the caller's own
--            clock; of the plan's bucket: burst, rate, per (per 0: none) (6 doubles); burst, rate, per of each further
--            bucket, those in the key's hash first
-- ARGV[2]    epoch and version of the catalogue that the charge was made under, as in `r`
-- ARGV[3]    hash field of the plan's state
-- ARGV[4]    hash field of the lease's note
-- ARGV[5..]  hash fields of further buckets in the key's hash
-- returns    how many units were refunded
--
-- At most the units that the note says, once: the note goes with them, also where 0 are returned. Where there is none,
-- the lease was returned already, or has not been granted: a note of 0 units sees to it that it gets nothing if its
-- request comes later.
--
-- A bucket is credited the units minus what it refilled since the charge: without the charge it might have been full by
-- now, and a refund must never mint tokens. It is credited nothing
--   if the key was charged under another catalogue since: without the charge, a smaller burst might have cut the level
--   (what is left is cut by the next charge, refund included);
--   if its state is from before the charge: the server lost the charge, or its clock was set back.
-- Units of a quota's window that is over, or of a deleted key, are not refunded, and no hash is created. A state that
-- no script can have written stays as it is.

-- @include lib/constants
-- @include lib/packing
-- @include lib/validity
-- @include lib/lease_notes
-- @inline inline/closed_day_size

local call, request, note_field = redis.call, ARGV[1], ARGV[4]
local now, units, waited_us, burst, rate, per = unpack_doubles('<dddddd', request)
if now == 0 then
  -- @inline inline/server_time
end
local hash_values = call('HMGET', KEYS[1], 'r', ARGV[3], note_field, unpack(ARGV, 5))
local stored_token, note = hash_values[1], hash_values[3]
if not note then
  local outdated = units > 0 and stored_token and outdated_notes(KEYS[1], now)
  if outdated then
    for _, field in ipairs(outdated) do call('HDEL', KEYS[1], field) end
    call('HSET', KEYS[1], note_field, pack_doubles('<dddd', 0, now, -1, 0))
  end
  return 0
end
if #note ~= NOTE_SIZE or not are_integers(unpack_doubles('<dddd', note)) then return 0 end
local noted_units, charged_us, charge_window, charge_day = unpack_doubles('<dddd', note)
if noted_units <= 0 then return 0 end
call('HDEL', KEYS[1], note_field)
units = math.min(units, noted_units)
if units <= 0 then return 0 end
local elapsed = math.max(now - charged_us, waited_us)
local same_catalogue = stored_token and #stored_token == VERSION_TOKEN_SIZE
  and string.sub(stored_token, 1, 18) == ARGV[2]

local function credited(level, its_burst, its_rate, its_per)
  local credit = units * its_per - elapsed * its_rate
  -- A journal charged a level below zero, perhaps less than was spent: a refund must not give that a second time.
  if credit <= 0 or level < 0 then return level end
  return math.min(level + credit, math.max(level, its_burst * its_per))
end

-- The new state of further bucket `i`; nil if it is credited nothing.
local function further_bucket(i, state)
  if not same_catalogue or not state or #state ~= BUCKET_SIZE then return nil end
  local its_burst, its_rate, its_per = unpack_doubles('<ddd', request, 25 + BUCKET_SIZE * i)
  local stored_per, level, last = unpack_doubles('<ddd', state)
  if stored_per ~= its_per or last < charged_us or not is_bucket(stored_per, level, last) then return nil end
  return pack_doubles('<ddd', stored_per, credited(level, its_burst, its_rate, its_per), last)
end

local key_buckets, fields, plan_state = #ARGV - 4, {}, hash_values[2]
if plan_state and #plan_state == PLAN_STATE_SIZE and is_plan_state(unpack_doubles('<ddddddd', plan_state)) then
  local stored_per, level, last, calendar, used, granted, day_used = unpack_doubles('<ddddddd', plan_state)
  local window, day
  -- @inline inline/unpack_calendar
  if per > 0 and last < charged_us then return 0 end
  if same_catalogue and stored_per == per then level = credited(level, burst, rate, per) end
  if window == charge_window then used = math.max(0, used - units) end
  if day == charge_day then day_used = math.max(0, day_used - units) end
  fields = { ARGV[3], pack_doubles('<ddddddd', stored_per, level, last, calendar, used, granted, day_used) }
end
-- A day that is over is in the key's hash until archive.lua moves it.
local day_field = string.format('d%s:%.0f', string.sub(ARGV[3], 2), charge_day)
for i, field in ipairs({ day_field, string.sub(day_field, 3) }) do
  local closed_day = call('HGET', KEYS[i], field)
  if closed_day and #closed_day == CLOSED_DAY_SIZE then
    local day_used, balance = unpack_doubles('<dd', closed_day)
    if are_integers(day_used, balance) and day_used >= 0 then
      if balance >= 0 then balance = balance + units end
      call('HSET', KEYS[i], field, pack_doubles('<dd', math.max(0, day_used - units), balance))
    end
  end
end
for i = 1, key_buckets do
  local state = further_bucket(i, hash_values[i + 3])
  if state then fields[#fields + 1], fields[#fields + 2] = ARGV[i + 4], state end
end
if #fields > 0 then call('HSET', KEYS[1], unpack(fields)) end
for i = 3, #KEYS do
  local state = further_bucket(key_buckets + i - 2, call('GET', KEYS[i]))
  if state then call('SETRANGE', KEYS[i], '0', state) end
end
return units
