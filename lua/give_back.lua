-- give_back: return what a lease ended with: units that check.lua charged, and nobody spent.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- KEYS[3..]  shared buckets that were charged; none once the caller goes by another catalogue
-- ARGV[1]    now_us (0: the server's clock), units, time of the charge, microseconds since then by the caller's own
--            clock; of the plan's bucket: burst, rate, per (per 0: none); window of the charge (-1: no quota), day of
--            the charge (9 doubles); burst, rate, per of each further bucket, those in the key's hash first
-- ARGV[2]    epoch and version of the catalogue that the charge was made under, as in `r`
-- ARGV[3]    hash field of the plan's state
-- ARGV[4]    hash field of the day of the charge, once it is over
-- ARGV[5..]  hash fields of further buckets in the key's hash
-- returns    1
--
-- A bucket gets back only what it has not refilled since the charge: without the charge it might have been full by now.
-- It gets nothing if the key was charged under another catalogue since: without the charge, a smaller burst might have
-- cut what there was. (What was not charged is cut by the next charge, with what is given back.) Nor does a state from
-- before the charge: the server lost the charge, or its clock was set back. What another window or the deletion of the key
-- made meaningless is not given back, and nothing is created. A state that no script can have written stays as it is. Send
-- it once: twice would mint.

-- @include lib/packing
-- @include lib/sound

local request = ARGV[1]
local now, units, charged, waited, burst, rate, per, its_window, its_day = struct.unpack('<ddddddddd', request)
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local elapsed = math.max(now - charged, waited)
local own = redis.call('HMGET', KEYS[1], 'r', ARGV[3], ARGV[4], unpack(ARGV, 5))
local same_plans = own[1] and #own[1] == 26 and string.sub(own[1], 1, 18) == ARGV[2]

local function credited(level, burst, rate, per)
  local credit = units * per - elapsed * rate
  if credit <= 0 then return level end
  return math.min(level + credit, math.max(level, burst * per))
end

-- The state of further bucket `i` with what it gets back; nil if that is nothing.
local function further(i, state)
  if not same_plans or not state or #state ~= 24 then return nil end
  local its_burst, its_rate, its_per = struct.unpack('<ddd', request, 49 + 24 * i)
  local stored, level, last = struct.unpack('<ddd', state)
  if stored ~= its_per or last < charged or not is_bucket(stored, level, last) then return nil end
  return struct.pack('<ddd', stored, credited(level, its_burst, its_rate, its_per), last)
end

local own_buckets, fields = #ARGV - 4, {}
if own[2] and #own[2] == 56 and is_plan_state(struct.unpack('<ddddddd', own[2])) then
  local p_per, level, last, calendar, used, granted, day_used = struct.unpack('<ddddddd', own[2])
  local day = calendar % 1048576
  if per > 0 and last < charged then return 1 end
  if same_plans and per > 0 and p_per == per then level = credited(level, burst, rate, per) end
  if (calendar - day) / 1048576 == its_window then used = math.max(0, used - units) end
  if day == its_day then day_used = math.max(0, day_used - units) end
  fields = { ARGV[3], struct.pack('<ddddddd', p_per, level, last, calendar, used, granted, day_used) }
end
-- A day that is over is in the key's hash until somebody moves it to the archive.
for i, place in ipairs({ ARGV[4], string.sub(ARGV[4], 3) }) do
  local closed = own[3]
  if i == 2 then closed = redis.call('HGET', KEYS[2], place) end
  if closed and #closed == 16 then
    local day_used, balance = struct.unpack('<dd', closed)
    if are_sound(day_used, balance) and day_used >= 0 then
      if balance >= 0 then balance = balance + units end
      redis.call('HSET', KEYS[i], place, struct.pack('<dd', math.max(0, day_used - units), balance))
    end
  end
end
for i = 1, own_buckets do
  local state = further(i, own[i + 3])
  if state then fields[#fields + 1], fields[#fields + 2] = ARGV[i + 4], state end
end
if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
for i = 3, #KEYS do
  local state = further(own_buckets + i - 2, redis.call('GET', KEYS[i]))
  if state then redis.call('SETRANGE', KEYS[i], '0', state) end
end
return 1
