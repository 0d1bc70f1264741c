-- general: a passage, not a module: judges any check, with all that can happen to it, and changes nothing.
--
-- Reads  what check.lua read of the request and of Redis
-- Leaves reply, refused; the states to be written (nil, or missing in `packed`, where nothing is): plan, packed and
--        fill_us, shadow, shadow_bucket; a day of metering that is over: closed_day, closed_figures

local DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
local WINDOWS_PAST = -3
local NEVER, NO_QUOTA = -1, -1
local MOST = 9007199254740991 -- beyond, numbers are not whole any more

if has_shadow then
  local at = own_buckets + 3
  if own[at] and #own[at] ~= 64 then return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[at]) end
  if shadow_has_bucket and own[at + 1] and #own[at + 1] ~= 24 then
    return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[at + 1])
  end
  local its_quota, its_first, _, its_third = struct.unpack('<dddd', request, shadow_at + 24)
  if its_quota >= 0 and (now < its_first * DAY_US or now >= its_third * DAY_US) then return { WINDOWS_PAST, now } end
end

-- Judge every limit as if each were charged `charge` units; if one refuses, once more without a charge.
local charge, asked = cost, cost
if cost == 0 then asked = 1 end -- cost 0 asks what cost 1 would get
reply = { ADMITTED, now, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
local per, level, last, window, used, granted, day, day_used, bucket_moved, window_moved
packed, fill_us = {}, {}
while true do
  local n = 2
  refused, bucket_moved, window_moved, closed_day = false, false, false, nil
  per, level, last, window, used, granted, day, day_used = 0, 0, 0, 0, 0, 0, 0, 0
  if own and own[2] then
    if #own[2] ~= 56 then return redis.error_reply('RATELIMIT CORRUPT ' .. ARGV[2]) end
    local calendar
    per, level, last, calendar, used, granted, day_used = struct.unpack('<ddddddd', own[2])
    day = calendar % 1048576
    window = (calendar - day) / 1048576
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
      fill_us[i] = rate > 0 and burst * new_per / rate or 0
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

-- What is to be written: everything if admitted; if denied, only what was re-anchored; nothing for cost 0.
if cost == 0 then
  if not refused then reply[1] = WOULD_ADMIT end
  packed = {}
elseif own and not refused then
  plan = struct.pack('<ddddddd', per, level, last, window * 1048576 + day, used, granted, day_used)
elseif bucket_moved or window_moved then
  local o_per, o_level, o_last, o_calendar, o_used, o_granted, o_day_used = struct.unpack('<ddddddd', own[2])
  if bucket_moved then o_per, o_level, o_last = per, level, last end
  if window_moved then o_calendar = window * 1048576 + o_calendar % 1048576 end
  plan = struct.pack('<ddddddd', o_per, o_level, o_last, o_calendar, o_used, o_granted, o_day_used)
end
if closed_day then reply[1] = ADMITTED_DAY_OVER end
if has_shadow and cost > 0 and not refused then
  -- @include lib/shadow
  local at, method_state = own_buckets + 3, nil
  if shadow_has_bucket then method_state = own[at + 1] end
  shadow, shadow_bucket = shadowed(struct, request, shadow_at, own[at], method_state, now, cost)
end
