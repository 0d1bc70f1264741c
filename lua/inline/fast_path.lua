-- fast_path: judges a check of the common kind in a straight line, and changes nothing.
--
-- Reads   now, cost, quota, buckets, hash_values, plan_per, plan_rate
-- Reads   numbers     sets level and last of each further bucket as they will be, if admitted
-- Reads   eligible, today, current_calendar, window_end, full, price
-- Leaves  reply       as check.lua returns it; nil: leave the check to inline/slow_path, which covers every case
-- Leaves  denied      if it is false, the reply is all new states, packed
-- Leaves  new_plan    the plan's state to be written, if admitted
--
-- Not of the common kind: nothing stored yet, a plan that changed, a new window or day, a clock that went back, a
-- request without a cost, one that can never be admitted, numbers that no script wrote. The arithmetic is that of
-- token_bucket and quota_window without those cases. Comparisons say what admits: one with NaN is false.
local plan_state = hash_values[2]
if eligible and plan_state and #plan_state == PLAN_STATE_SIZE then
  local per, level, last, calendar, used, granted, day_used = unpack_doubles('<ddddddd', plan_state)
  local covered, fits, left = calendar == current_calendar, true, quota + granted - used
  if quota < 0 then covered = calendar % CALENDAR_BASE == today and calendar >= 0 end
  -- A number that is NaN, not finite or not whole shows in the sum, and one far out of range does. -1 is what is left
  -- where there is no quota.
  local sum = level + last + left + day_used
  if not (sum % 1 == 0 and sum >= -1 and sum < MAX_SUM and used >= 0 and day_used >= 0) then covered = false end
  if quota >= 0 then
    used = used + cost
    if not (cost <= left) then fits = false end
  end
  if plan_per > 0 then
    if per ~= plan_per or now < last then covered = false end
    -- A sum too large to be exact is above what fills the bucket.
    level = level + (now - last) * plan_rate
    if level > full then level = full end
    if not (price <= level) then fits = false end
    last = now
  elseif per == 0 then
    if now < last then covered = false end
    last = now -- there is no bucket: the time of the last charge
  elseif buckets == 0 or not (per > 0 and per <= MAX_INTEGER and per % 1 == 0) then
    covered = false -- nothing in the reply would give the time, or it is no state
  end
  if covered and buckets > 0 then
    for at = 7, 7 * buckets, 7 do
      local bucket_full, charged_us = numbers[at - 2], numbers[at - 4]
      local refilled = numbers[at - 5] + (now - charged_us) * numbers[at - 3]
      if refilled > bucket_full then refilled = bucket_full end
      if now < charged_us then covered = false end
      if not (numbers[at - 1] <= refilled) then fits = false end
      numbers[at] = refilled
    end
  end

  if covered and fits then
    denied = false
    day_used = day_used + cost
    if day_used > MAX_INTEGER then day_used = MAX_INTEGER end
    new_plan = pack_doubles('<ddddddd', per, level - price, last, calendar, used, granted, day_used)
    reply = new_plan
    if buckets > 0 then
      for at = 7, 7 * buckets, 7 do
        numbers[at - 5] = numbers[at] - numbers[at - 1]
        numbers[at - 4] = now
      end
      if buckets == 1 then
        reply = new_plan .. pack_doubles('<ddd', numbers[1], numbers[2], now)
      elseif buckets == 2 then
        reply = new_plan .. pack_doubles('<dddddd', numbers[1], numbers[2], now, numbers[8], numbers[9], now)
      else
        for at = 1, 7 * buckets, 7 do reply = reply .. pack_doubles('<ddd', numbers[at], numbers[at + 1], now) end
      end
    end
  elseif covered then
    -- @inline inline/decision_statuses
    local limits = { nil, nil, nil, nil, nil, nil, nil, nil }
    local n = 0
    if plan_per > 0 then limits[1], limits[2], n = level, now, 2 end
    for at = 7, 7 * buckets, 7 do
      limits[n + 1], limits[n + 2] = numbers[at], now
      n = n + 2
    end
    if quota >= 0 then
      if left < 0 then left = 0 end
      limits[n + 1], limits[n + 2] = left, window_end * DAY_US
      n = n + 2
    end
    local format = string.sub('<dddddddddddddddd', 1, n + 1)
    if n > 16 then format = '<' .. string.rep('d', n) end
    denied = true
    reply = { DENIED, now, pack_doubles(format, unpack(limits, 1, n)) }
  end
end
