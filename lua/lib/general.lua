-- general: a passage, not a module: judges any check, with all that can happen to it, and changes nothing.
--
-- Reads  what check.lua read of the request and of Redis
-- Leaves reply, refused; the states to be written (nil, or missing in `packed`, where nothing is): plan, packed and
--        fill_us, shadow, shadow_bucket; a day of metering that is over: closed_day, closed_figures

local DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
local WINDOWS_PAST = -3
local NO_QUOTA = -1

-- @include lib/sound

local function corrupt(place) return redis.error_reply('RATELIMIT CORRUPT ' .. place) end

if own and own[2] then
  if #own[2] ~= 56 or not is_plan_state(struct.unpack('<ddddddd', own[2])) then return corrupt(field) end
end
for i = 1, buckets do
  if states[i] and not is_bucket(struct.unpack('<ddd', states[i])) then
    if i <= own_buckets then return corrupt(ARGV[i + 2]) end
    return corrupt(KEYS[own_keys + i - own_buckets])
  end
end
if has_shadow then
  local at = own_buckets + 3
  local state, its_bucket = own[at], shadow_has_bucket and own[at + 1]
  if state and (#state ~= 64 or not are_sound(struct.unpack('<dddddddd', state))) then return corrupt(ARGV[at]) end
  if its_bucket and (#its_bucket ~= 24 or not is_bucket(struct.unpack('<ddd', its_bucket))) then
    return corrupt(ARGV[at + 1])
  end
  local its_quota, its_first, _, its_third = struct.unpack('<dddd', request, shadow_at + 24)
  if its_quota >= 0 and (now < its_first * DAY_US or now >= its_third * DAY_US) then return { WINDOWS_PAST, now } end
end

-- Judge every limit as if each were charged `charge` units; if one refuses, once more without a charge.
local charge, asked = cost, cost
if cost == 0 then asked = 1 end -- cost 0 asks what cost 1 would get
if peeks then charge = 0 end
reply = { ADMITTED, now, nil }
local told = { nil, nil, nil, nil, nil, nil, nil, nil } -- of each limit two numbers, as the reply has them
local n
local per, level, last, window, used, granted, day, day_used, bucket_moved, window_moved
packed, fill_us = {}, {}
while true do
  n = 0
  refused, bucket_moved, window_moved, closed_day = false, false, false, nil
  per, level, last, window, used, granted, day, day_used = 0, 0, 0, 0, 0, 0, 0, 0
  if own and own[2] then
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
    if not (rate > 0 and asked <= burst and asked * new_per <= b_level) then refused = true end
    b_level = b_level - charge * new_per
    told[n + 1], told[n + 2] = b_level, b_last
    n = n + 2
    if i == 0 then
      per, level, last, bucket_moved = new_per, b_level, b_last, b_moved
    elseif charge > 0 or b_moved then
      packed[i] = struct.pack('<ddd', new_per, b_level, b_last)
      fill_us[i] = rate > 0 and burst * new_per / rate or 0
    else
      packed[i] = nil
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
    local left = quota + granted - used
    if not (asked <= left) then refused = true end
    left = left - charge
    if left < 0 then left = 0 end
    told[n + 1], told[n + 2] = left, to * DAY_US
    n = n + 2
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

reply[3] = struct.pack('<' .. string.rep('d', n), unpack(told, 1, n))

-- What is to be written: everything if admitted; if denied, only what was re-anchored; nothing where none is consumed.
if peeks then
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
if has_shadow and not peeks and not refused then
  -- @include lib/shadow
  local at, method_state = own_buckets + 3, nil
  if shadow_has_bucket then method_state = own[at + 1] end
  shadow, shadow_bucket = shadowed(struct, request, shadow_at, own[at], method_state, now, cost)
end
