-- usual: a passage, not a module: judges a check that meets nothing unusual, in a straight line, and changes nothing.
--
-- Reads  what lib/terms left, and what it read; request, own (the key's identity, the plan's state, buckets of methods),
--        buckets, states
-- Leaves reply: as check.lua returns it, or nil: leave it to lib/general, which knows every case
--        refused; if it is false: plan, packed: the states to be written; fill_us: of those buckets whose expiry has to
--        be set anew, the time in which they fill
--
-- Unusual are: nothing stored yet, a plan that changed, a new window or day, a clock that went back, a question without
-- a cost, one that can never be admitted. The arithmetic is that of token_bucket and quota_window without those cases.
local stored = own[2]
if possible and stored and #stored == 64 then
  local per, level, last, window, used, granted, day, day_used = struct.unpack('<dddddddd', stored)
  local usual, fits, left = day == today, true, 0
  if quota >= 0 then
    left = quota + granted - used
    if window ~= this_window then usual = false end
    if cost > left then fits = false end
  end
  if plan_per > 0 then
    if per ~= plan_per or now < last then usual = false end
    -- A sum too large to be exact is above what fills the bucket.
    level = level + (now - last) * plan_rate
    if level > full then level = full end
    if price > level then fits = false end
    last = now
  elseif per == 0 then
    if now < last then usual = false end
    last = now -- there is no bucket: the time of the last charge
  elseif buckets == 0 then
    usual = false -- nothing in the reply would tell the time
  end
  local further
  if usual and buckets > 0 then
    further = { nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
    for i = 1, buckets do
      local burst, rate, new_per = struct.unpack('<ddd', request, 91 + 24 * i)
      local b_level, charged = burst * new_per, 0
      if states[i] then
        local b_per, stored, b_last = struct.unpack('<ddd', states[i])
        charged = b_last
        if b_per ~= new_per or now < b_last then usual = false end
        stored = stored + (now - b_last) * rate
        if stored < b_level then b_level = stored end
      end
      if rate == 0 or cost > burst then usual = false end
      if cost * new_per > b_level then fits = false end
      local at = 5 * i
      further[at - 4], further[at - 3], further[at - 2], further[at - 1], further[at] = burst, rate, new_per, b_level, charged
    end
  end

  if usual and fits then
    local MOST = 9007199254740991 -- beyond, numbers are not whole any more
    refused = false
    if quota >= 0 then used = used + cost end
    day_used = day_used + cost
    if day_used > MOST then day_used = MOST end
    plan = struct.pack('<dddddddd', per, level - price, last, window, used, granted, day, day_used)
    reply = plan
    if buckets > 0 then
      packed, fill_us = { nil, nil, nil }, { nil, nil, nil }
      for i = 1, buckets do
        local rate, new_per = further[5 * i - 3], further[5 * i - 2]
        local b_level = further[5 * i - 1] - cost * new_per
        packed[i] = struct.pack('<ddd', new_per, b_level, now)
        if further[5 * i] < now - now % KEPT_US then fill_us[i] = further[5 * i - 4] * new_per / rate end
      end
      reply = plan .. table.concat(packed)
    end
  elseif usual then
    local DENIED = 0
    refused, reply = true, { DENIED, now }
    local n = 2
    for i = plan_per > 0 and 0 or 1, buckets do
      local burst, rate, new_per, b_level = plan_burst, plan_rate, plan_per, level
      if i > 0 then burst, rate, new_per, b_level = unpack(further, 5 * i - 4, 5 * i - 1) end
      local missing, short = burst * new_per - b_level, cost * new_per - b_level
      if short < 0 then short = 0 end
      reply[n + 1] = (b_level - b_level % new_per) / new_per
      reply[n + 2], reply[n + 3] = (missing + -missing % rate) / rate, (short + -short % rate) / rate
      n = n + 3
    end
    if quota >= 0 then
      local left_us = window_end * DAY_US - now
      if left < 0 then left = 0 end
      reply[n + 1], reply[n + 2], reply[n + 3] = left, left_us, cost > left and left_us or 0
    end
  end
end
