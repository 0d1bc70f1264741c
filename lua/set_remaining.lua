-- set_remaining: set what is left of a key's quota in the current window; the next window has the plan's limit again.
--
-- KEYS[1]    hash of the API key
-- ARGV[1]    hash field of the plan's state
-- ARGV[2]    now_us (0: the server's clock), quota, first days of three windows, remaining (6 doubles)
-- returns    {1, now_us, used}, {-1, now_us} if there is no such key, {-3, now_us} if the windows are past
-- errors     RATELIMIT CORRUPT <field>

-- @include lib/constants
-- @include lib/packing
-- @include lib/quota_window
-- @include lib/validity
-- @inline inline/retry_statuses

local call, plan_field = redis.call, ARGV[1]
local now, quota, first_day, second_day, third_day, remaining = unpack_doubles('<dddddd', ARGV[2])
if now == 0 then
  -- @inline inline/server_time
end
if call('HEXISTS', KEYS[1], 'r') == 0 then return { KEY_CHANGED, now } end
local state = call('HGET', KEYS[1], plan_field)
local per, level, last, calendar, day_used, used, granted = 0, 0, 0, 0, 0
if state then
  if #state ~= PLAN_STATE_SIZE or not is_plan_state(unpack_doubles('<ddddddd', state)) then
    return redis.error_reply('RATELIMIT CORRUPT ' .. plan_field)
  end
  per, level, last, calendar, used, granted, day_used = unpack_doubles('<ddddddd', state)
end
local window, day
-- @inline inline/unpack_calendar
local current_window, _, goes_on = window_at(window, first_day, second_day, third_day, now)
if not current_window then return { WINDOWS_PAST, now } end
-- A day that is over ended with what was left then.
local today = math.floor(now / DAY_US)
if today > day then
  if day > 0 then
    local balance = math.max(0, quota + granted - used)
    local day_field = string.format('d%s:%.0f', string.sub(plan_field, 2), day)
    call('HSET', KEYS[1], day_field, pack_doubles('<dd', day_used, balance))
  end
  day, day_used = today, 0
end
if not goes_on then used = 0 end
-- What is left is quota + granted - used: granted may be below 0, where less is left than the plan gives.
granted = remaining + used - quota
calendar = current_window * CALENDAR_BASE + day
call('HSET', KEYS[1], plan_field, pack_doubles('<ddddddd', per, level, last, calendar, used, granted, day_used))
return { 1, now, used }
