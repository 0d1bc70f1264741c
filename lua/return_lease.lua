-- return_lease: refund what is left of a lease: units that check.lua charged and nobody spent.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- KEYS[3..]  shared buckets that were charged; none once the caller has another catalogue
-- ARGV[1]    now_us (0: the server's clock), units, time of the charge, microseconds since then by the caller's own
--            clock; of the plan's bucket: burst, rate, per (per 0: none); window of the charge (-1: no quota), day of
--            the charge (9 doubles); burst, rate, per of each further bucket, those in the key's hash first
-- ARGV[2]    epoch and version of the catalogue that the charge was made under, as in `r`
-- ARGV[3]    hash field of the plan's state
-- ARGV[4]    hash field of the day of the charge, once it is over
-- ARGV[5..]  hash fields of further buckets in the key's hash
-- returns    1
--
-- A bucket is credited the units minus what it refilled since the charge: without the charge it might have been full by
-- now, and a refund must never mint tokens. It is credited nothing
--   if the key was charged under another catalogue since: without the charge, a smaller burst might have cut the level
--   (what is left is cut by the next charge, refund included);
--   if its state is from before the charge: the server lost the charge, or its clock was set back.
-- Units of a quota's window that is over, or of a deleted key, are not refunded, and nothing is created. A state that
-- no script can have written stays as it is. Send it once: twice would mint.

-- @include lib/constants
-- @include lib/packing
-- @include lib/validity
-- @inline inline/closed_day_size

local call, request = redis.call, ARGV[1]
local now, units, charged_us, waited_us, burst, rate, per, charge_window, charge_day =
  unpack_doubles('<ddddddddd', request)
if now == 0 then
  -- @inline inline/server_time
end
local elapsed = math.max(now - charged_us, waited_us)
local hash_values = call('HMGET', KEYS[1], 'r', ARGV[3], ARGV[4], unpack(ARGV, 5))
local stored_token = hash_values[1]
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
  local its_burst, its_rate, its_per = unpack_doubles('<ddd', request, 49 + BUCKET_SIZE * i)
  local stored_per, level, last = unpack_doubles('<ddd', state)
  if stored_per ~= its_per or last < charged_us or not is_bucket(stored_per, level, last) then return nil end
  return pack_doubles('<ddd', stored_per, credited(level, its_burst, its_rate, its_per), last)
end

local key_buckets, fields, plan_state = #ARGV - 4, {}, hash_values[2]
if plan_state and #plan_state == PLAN_STATE_SIZE and is_plan_state(unpack_doubles('<ddddddd', plan_state)) then
  local stored_per, level, last, calendar, used, granted, day_used = unpack_doubles('<ddddddd', plan_state)
  local window, day
  -- @inline inline/unpack_calendar
  if per > 0 and last < charged_us then return 1 end
  if same_catalogue and per > 0 and stored_per == per then level = credited(level, burst, rate, per) end
  if window == charge_window then used = math.max(0, used - units) end
  if day == charge_day then day_used = math.max(0, day_used - units) end
  fields = { ARGV[3], pack_doubles('<ddddddd', stored_per, level, last, calendar, used, granted, day_used) }
end
-- A day that is over is in the key's hash until archive.lua moves it.
for i, field in ipairs({ ARGV[4], string.sub(ARGV[4], 3) }) do
  local closed_day = hash_values[3]
  if i == 2 then closed_day = call('HGET', KEYS[2], field) end
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
return 1
