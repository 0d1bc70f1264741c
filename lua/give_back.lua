-- give_back: return what a lease ended with: units that check.lua charged, and nobody spent.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- KEYS[3..]  shared buckets that were charged
-- ARGV[1]    now_us (0: the server's clock), units, time of the charge; of the plan's bucket: burst, rate, per (per 0:
--            none); window of the charge (-1: no quota), day of the charge (8 doubles); burst, rate, per of each further
--            bucket, those in the key's hash first
-- ARGV[2]    hash field of the plan's state
-- ARGV[3]    hash field of the day of the charge, once it is over
-- ARGV[4..]  hash fields of further buckets in the key's hash
-- returns    1
--
-- A bucket gets back only what it has not refilled since the charge: without the charge it would have been full by so
-- much earlier. What a plan's change, another window or the deletion of the key made meaningless is not given back, and
-- nothing is created. Send it once: a second time would mint.

-- @include lib/packing

local request = ARGV[1]
local now, units, charged, burst, rate, per, its_window, its_day = struct.unpack('<dddddddd', request)
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local elapsed = math.max(0, now - charged)

local function credited(level, burst, rate, per)
  local credit = units * per - elapsed * rate
  if credit <= 0 then return level end
  return math.min(level + credit, math.max(level, burst * per))
end

local own = redis.call('HMGET', KEYS[1], ARGV[2], ARGV[3], unpack(ARGV, 4))
local fields = {}
if own[1] and #own[1] == 64 then
  local p_per, level, last, window, used, granted, day, day_used = struct.unpack('<dddddddd', own[1])
  if per > 0 and p_per == per then level = credited(level, burst, rate, per) end
  if window == its_window then used = math.max(0, used - units) end
  if day == its_day then day_used = math.max(0, day_used - units) end
  fields = { ARGV[2], struct.pack('<dddddddd', p_per, level, last, window, used, granted, day, day_used) }
end
-- A day that is over is in the key's hash until somebody moves it to the archive.
for i, place in ipairs({ ARGV[3], string.sub(ARGV[3], 3) }) do
  local closed = own[2]
  if i == 2 then closed = redis.call('HGET', KEYS[2], place) end
  if closed and #closed == 16 then
    local day_used, balance = struct.unpack('<dd', closed)
    if balance >= 0 then balance = balance + units end
    redis.call('HSET', KEYS[i], place, struct.pack('<dd', math.max(0, day_used - units), balance))
  end
end
for i = 1, #ARGV - 3 do
  if own[i + 2] and #own[i + 2] == 24 then
    local b_burst, b_rate, b_per = struct.unpack('<ddd', request, 41 + 24 * i)
    local stored, level, last = struct.unpack('<ddd', own[i + 2])
    if stored == b_per then
      fields[#fields + 1] = ARGV[i + 3]
      fields[#fields + 1] = struct.pack('<ddd', stored, credited(level, b_burst, b_rate, b_per), last)
    end
  end
end
if #fields > 0 then redis.call('HSET', KEYS[1], unpack(fields)) end
for i = 3, #KEYS do
  local state = redis.call('GET', KEYS[i])
  if state and #state == 24 then
    local b_burst, b_rate, b_per = struct.unpack('<ddd', request, 41 + 24 * (#ARGV - 3 + i - 2))
    local stored, level, last = struct.unpack('<ddd', state)
    if stored == b_per then
      redis.call('SETRANGE', KEYS[i], '0', struct.pack('<ddd', stored, credited(level, b_burst, b_rate, b_per), last))
    end
  end
end
return 1
