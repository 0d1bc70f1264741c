-- set_remaining: set what is left of a key's quota in the current window; the next window has the plan's limit again.
--
-- KEYS[1]    hash of the API key
-- ARGV[1]    hash field of the plan's state
-- ARGV[2]    now_us (0: the server's clock), quota, first days of three windows, remaining (6 doubles)
-- returns    {1, now_us, used}, {-1, now_us} if there is no such key, {-3, now_us} if the windows are past
-- errors     RATELIMIT CORRUPT <field>

-- @include lib/packing
-- @include lib/quota_window
-- @include lib/sound

local now, quota, first_day, second_day, third_day, remaining = struct.unpack('<dddddd', ARGV[2])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
if redis.call('HEXISTS', KEYS[1], 'r') == 0 then return { -1, now } end
local state = redis.call('HGET', KEYS[1], ARGV[1])
local per, level, last, window, used, granted, day, day_used = 0, 0, 0, 0, 0, 0, 0, 0
if state then
  if #state ~= 56 or not is_plan_state(struct.unpack('<ddddddd', state)) then
    return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[1])
  end
  local calendar
  per, level, last, calendar, used, granted, day_used = struct.unpack('<ddddddd', state)
  day = calendar % 1048576
  window = (calendar - day) / 1048576
end
local from, to, goes_on = window_at(window, first_day, second_day, third_day, now)
if not from then return { -3, now } end
-- A day that is over ended with what was left then.
local today = math.floor(now / 86400000000)
if today > day then
  if day > 0 then
    local balance = math.max(0, quota + granted - used)
    local field = string.format('d%s:%.0f', string.sub(ARGV[1], 2), day)
    redis.call('HSET', KEYS[1], field, struct.pack('<dd', day_used, balance))
  end
  day, day_used = today, 0
end
if not goes_on then used = 0 end
-- What is left is quota + granted - used: granted may be below 0, where less is left than the plan gives.
granted = remaining + used - quota
local calendar = (from * 64 + to - from) * 1048576 + day
redis.call('HSET', KEYS[1], ARGV[1], struct.pack('<ddddddd', per, level, last, calendar, used, granted, day_used))
return { 1, now, used }
