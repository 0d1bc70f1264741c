-- usual: a passage, not a module: judges a check that meets nothing unusual, in a straight line, and changes nothing.
--
-- Reads  what lib/terms and lib/held left, and what they read; own (the key's identity, the plan's state)
-- Leaves reply: as check.lua returns it, or nil: leave it to lib/general, which knows every case
--        refused; if it is false: plan: its state to be written; numbers: level and last as they will be. The reply is
--        all states, packed
--
-- Unusual are: nothing stored yet, a plan that changed, a new window or day, a clock that went back, a question without
-- a cost, one that can never be admitted, numbers that no script wrote. The arithmetic is that of token_bucket and
-- quota_window without those cases. Comparisons say what admits: one with a number that is none (NaN) is false.
local stored = own[2]
if possible and stored and #stored == 56 then
  local per, level, last, calendar, used, granted, day_used = unpack_doubles('<ddddddd', stored)
  local usual, fits, left = calendar == this_calendar, true, quota + granted - used
  if quota < 0 then usual = calendar % 1048576 == today and calendar >= 0 end
  -- A number that is none, not finite or not whole shows in the sum, and one far out of range does (beyond 2^56). -1 is
  -- what is left where there is no quota.
  local sum = level + last + left + day_used
  if not (sum % 1 == 0 and sum >= -1 and sum < 72057594037927936 and used >= 0 and day_used >= 0) then usual = false end
  if quota >= 0 then
    used = used + cost
    if not (cost <= left) then fits = false end
  end
  if plan_per > 0 then
    if per ~= plan_per or now < last then usual = false end
    -- A sum too large to be exact is above what fills the bucket.
    level = level + (now - last) * plan_rate
    if level > full then level = full end
    if not (price <= level) then fits = false end
    last = now
  elseif per == 0 then
    if now < last then usual = false end
    last = now -- there is no bucket: the time of the last charge
  elseif buckets == 0 or not (per > 0 and per <= 9007199254740991 and per % 1 == 0) then
    usual = false -- nothing in the reply would tell the time, or it is no state
  end
  if usual and buckets > 0 then
    for at = 7, 7 * buckets, 7 do
      local held, charged = numbers[at - 2], numbers[at - 4]
      local refilled = numbers[at - 5] + (now - charged) * numbers[at - 3]
      if not (refilled >= held) then held = refilled end
      if now < charged then usual = false end
      if not (numbers[at - 1] <= held) then fits = false end
      numbers[at] = held
    end
  end

  if usual and fits then
    refused = false
    day_used = day_used + cost
    if day_used > 9007199254740991 then day_used = 9007199254740991 end -- beyond, numbers are not whole any more
    plan = pack_doubles('<ddddddd', per, level - price, last, calendar, used, granted, day_used)
    reply = plan
    if buckets > 0 then
      for at = 7, 7 * buckets, 7 do
        numbers[at - 5] = numbers[at] - numbers[at - 1]
        numbers[at - 4] = now
      end
      if buckets == 1 then
        reply = plan .. pack_doubles('<ddd', numbers[1], numbers[2], now)
      elseif buckets == 2 then
        reply = plan .. pack_doubles('<dddddd', numbers[1], numbers[2], now, numbers[8], numbers[9], now)
      else
        for at = 1, 7 * buckets, 7 do reply = reply .. pack_doubles('<ddd', numbers[at], numbers[at + 1], now) end
      end
    end
  elseif usual then
    local DENIED = 0
    local told = { nil, nil, nil, nil, nil, nil, nil, nil }
    local n = 0
    if plan_per > 0 then told[1], told[2], n = level, now, 2 end
    for at = 7, 7 * buckets, 7 do
      told[n + 1], told[n + 2] = numbers[at], now
      n = n + 2
    end
    if quota >= 0 then
      if left < 0 then left = 0 end
      told[n + 1], told[n + 2] = left, window_end * DAY_US
      n = n + 2
    end
    local format = string.sub('<dddddddddddddddd', 1, n + 1)
    if n > 16 then format = '<' .. string.rep('d', n) end
    refused, reply = true, { DENIED, now, pack_doubles(format, unpack(told, 1, n)) }
  end
end
