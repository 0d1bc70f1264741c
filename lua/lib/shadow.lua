-- shadow: what a successor of the plan would have said to a request that is admitted. It never denies.
--
-- State, 8 doubles: per, level, last_us, window, used, throttled, exceeded, seen. The last three count requests: how
-- many the successor would have throttled, how many it would have found over quota, how many it saw.
-- `method_state` (per, level, last_us) is the bucket of a method with one of its own, `false` before its first use;
-- nil where the successor has none, and the bucket in the state applies.
-- `rules` are burst, rate, per (0: no bucket), quota (-1: none), and the first days of three windows, at `at` in
-- `request`. Returns both states packed.
local function shadowed(struct, request, at, state, method_state, now, cost)
  local burst, rate, new_per, quota, first, second, third = struct.unpack('<ddddddd', request, at)
  local per, level, last, window, used, throttled, exceeded, seen = 0, 0, 0, 0, 0, 0, 0, 0
  if state then per, level, last, window, used, throttled, exceeded, seen = struct.unpack('<dddddddd', state) end
  local b_per, b_level, b_last = per, level, last
  if method_state ~= nil then b_per = 0 end
  if method_state then b_per, b_level, b_last = struct.unpack('<ddd', method_state) end

  local fits, within = true, true
  if new_per > 0 then
    b_level, b_last = bucket_at(b_per, b_level, b_last, burst, rate, new_per, now)
    b_per, fits = new_per, rate > 0 and cost * new_per <= b_level
  end
  if quota >= 0 then
    local from, to, goes_on = window_at(window, first, second, third, now)
    if not goes_on then used = 0 end
    window = from * 64 + to - from
    within = used + cost <= quota
  end
  if fits and within then
    b_level, used = b_level - cost * new_per, used + cost
  elseif fits then
    exceeded = exceeded + 1
  else
    throttled = throttled + 1
  end

  local packed_method
  if method_state ~= nil then
    packed_method = struct.pack('<ddd', b_per, b_level, b_last)
  else
    per, level, last = b_per, b_level, b_last
  end
  return struct.pack('<dddddddd', per, level, last, window, used, throttled, exceeded, seen + 1), packed_method
end
