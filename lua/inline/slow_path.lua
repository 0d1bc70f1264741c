-- slow_path: judges any check, with all that can happen to it, and changes nothing.
--
-- Reads   call, request, now, cost, quota, first_day, second_day, third_day, plan_burst, plan_rate, plan_per
-- Reads   hash_values, plan_field, hash_keys, key_buckets, buckets, states, limits_end
-- Reads   peeks, has_shadow, shadow_has_bucket, is_identity, is_bounded
-- Leaves  reply, denied
-- Leaves  new_plan, new_buckets, new_shadow, new_shadow_bucket    states to be written; nil where nothing is
-- Leaves  fill_us                         the time in which a bucket to be written fills
-- Leaves  closed_day, closed_day_state    a day of metering that is over

-- @include lib/validity
-- @inline inline/decision_statuses
-- @inline inline/retry_statuses

local NO_QUOTA = -1

local function corrupt(field_or_key) return redis.error_reply('RATELIMIT CORRUPT ' .. field_or_key) end

if hash_values and hash_values[2] then
  if #hash_values[2] ~= PLAN_STATE_SIZE or not is_plan_state(struct.unpack('<ddddddd', hash_values[2])) then
    return corrupt(plan_field)
  end
end
for i = 1, buckets do
  if states[i] and not is_bucket(struct.unpack('<ddd', states[i])) then
    if i <= key_buckets then return corrupt(ARGV[i + 2]) end
    return corrupt(KEYS[hash_keys + i - key_buckets])
  end
end
if has_shadow then
  local at = key_buckets + 3
  local state, method_state = hash_values[at], shadow_has_bucket and hash_values[at + 1]
  if state and (#state ~= 64 or not are_integers(struct.unpack('<dddddddd', state))) then return corrupt(ARGV[at]) end
  if method_state and (#method_state ~= BUCKET_SIZE or not is_bucket(struct.unpack('<ddd', method_state))) then
    return corrupt(ARGV[at + 1])
  end
  local limit, window_start, _, window_end = struct.unpack('<dddd', request, limits_end + 25)
  if limit >= 0 and (now < window_start * DAY_US or now >= window_end * DAY_US) then return { WINDOWS_PAST, now } end
end

-- Whether an identity would be one more of its plan, and the plan has as many as it may have.
local is_beyond = false
if is_bounded and not hash_values[2] then
  local most, one_in = struct.unpack('<dd', request, limits_end + 1)
  is_beyond = call('ZCOUNT', KEYS[#KEYS], now + 1, '+inf') * one_in >= most
end

-- Judge every limit as if each were charged `charge` units; if one denies, once more without a charge.
local charge, required = cost, cost
if cost == 0 then required = 1 end -- a peek: what a cost of 1 would get
if peeks then charge = 0 end
reply = { ADMITTED, now, nil }
local limits = { nil, nil, nil, nil, nil, nil, nil, nil } -- of each limit two numbers, as the reply has them
local n
local per, level, last, calendar, window, used, granted, day, day_used, bucket_moved, window_moved
new_buckets, fill_us = {}, {}
while true do
  n = 0
  denied, bucket_moved, window_moved, closed_day = false, false, false, nil
  per, level, last, calendar, used, granted, day_used = 0, 0, 0, 0, 0, 0, 0
  if hash_values and hash_values[2] then
    per, level, last, calendar, used, granted, day_used = struct.unpack('<ddddddd', hash_values[2])
  end
  -- @inline inline/unpack_calendar

  -- Token buckets: the plan's own, number 0, is part of its state.
  local first = 1
  if plan_per > 0 then first = 0 end
  for i = first, buckets do
    local burst, rate, new_per = plan_burst, plan_rate, plan_per
    local b_per, b_level, b_last, b_moved = per, level, last
    if i > 0 then
      burst, rate, new_per = struct.unpack('<ddd', request, HEAD_SIZE + BUCKET_SIZE * (i - 1) + 1)
      b_per = 0
      if states[i] then b_per, b_level, b_last = struct.unpack('<ddd', states[i]) end
    end
    b_level, b_last, b_moved = bucket_at(b_per, b_level, b_last, burst, rate, new_per, now)
    if not (rate > 0 and required <= burst and required * new_per <= b_level) then denied = true end
    b_level = b_level - charge * new_per
    limits[n + 1], limits[n + 2] = b_level, b_last
    n = n + 2
    if i == 0 then
      per, level, last, bucket_moved = new_per, b_level, b_last, b_moved
    elseif charge > 0 or b_moved then
      new_buckets[i] = struct.pack('<ddd', new_per, b_level, b_last)
      fill_us[i] = rate > 0 and (burst * new_per - math.min(0, b_level)) / rate or 0
    else
      new_buckets[i] = nil
    end
  end

  -- The quota, and what its window ends with if this check opens the next one.
  local balance = NO_QUOTA
  if quota >= 0 then
    balance = math.max(0, quota + granted - used)
    local window_end, goes_on
    window, window_end, goes_on, window_moved = window_at(window, first_day, second_day, third_day, now)
    if not window then return { WINDOWS_PAST, now } end
    if not goes_on then used, granted = 0, 0 end
    local left = quota + granted - used
    if not (required <= left) then denied = true end
    left = left - charge
    if left < 0 then left = 0 end
    limits[n + 1], limits[n + 2] = left, window_end * DAY_US
    n = n + 2
  end

  -- Metering. Days only roll forward; the figures of one that is over go to a field of their own.
  if charge > 0 and hash_values then
    local today = (now - now % DAY_US) / DAY_US
    if today > day then
      if day > 0 and not is_identity then
        closed_day, closed_day_state = day, struct.pack('<dd', day_used, balance)
      end
      day, day_used = today, 0
    end
    if quota >= 0 then used = used + charge end
    day_used = math.min(day_used + charge, MAX_INTEGER)
  end

  if not denied and not is_beyond then break end
  reply[1] = denied and DENIED or 4 -- too many identities: no limit denies
  denied = true
  if charge == 0 then break end
  charge = 0
end

reply[3] = struct.pack('<' .. string.rep('d', n), unpack(limits, 1, n))

-- What is to be written: everything if admitted; if denied, only what was re-anchored; nothing if nothing was to be
-- consumed.
if peeks then
  if not denied then reply[1] = WOULD_ADMIT end
  new_buckets = {}
elseif hash_values and not denied then
  calendar = window * CALENDAR_BASE + day
  new_plan = struct.pack('<ddddddd', per, level, last, calendar, used, granted, day_used)
elseif bucket_moved or window_moved then
  if not bucket_moved then per, level, last = struct.unpack('<ddd', hash_values[2]) end
  calendar, used, granted, day_used = struct.unpack('<dddd', hash_values[2], 25)
  if window_moved then calendar = window * CALENDAR_BASE + day end
  new_plan = struct.pack('<ddddddd', per, level, last, calendar, used, granted, day_used)
end
if closed_day then reply[1] = ADMITTED_DAY_OVER end
if has_shadow and not peeks and not denied then
  -- @include lib/shadow
  local at, method_state = key_buckets + 3, nil
  if shadow_has_bucket then method_state = hash_values[at + 1] end
  new_shadow, new_shadow_bucket =
    judge_shadow(struct, request, limits_end + 1, hash_values[at], method_state, now, cost)
end
