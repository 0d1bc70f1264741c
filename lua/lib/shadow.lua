-- shadow: what a successor of the plan would have decided about a request that is admitted. It never denies.
--
-- State, 8 doubles: per, level, last_us, window, used, throttled, exceeded, seen. The last three count requests: those
-- that the successor would have throttled, those that were over its quota, and all that it saw.
--
-- `method_state` (per, level, last_us) is the bucket of a method with one of its own, `false` before its first use; nil
-- where the successor has none, and the bucket in the state applies. `request` holds the successor's limits from `at`:
-- burst, rate, per (0: no bucket), quota (-1: none), and the first days of three windows. Returns both states, packed.
local function judge_shadow(struct, request, at, state, method_state, now, cost)
  local burst, rate, new_per, quota, first_day, second_day, third_day = struct.unpack('<ddddddd', request, at)
  local per, level, last, window, used, throttled, exceeded, seen = 0, 0, 0, 0, 0, 0, 0, 0
  if state then per, level, last, window, used, throttled, exceeded, seen = struct.unpack('<dddddddd', state) end
  local b_per, b_level, b_last = per, level, last
  if method_state ~= nil then b_per = 0 end -- no state means full
  if method_state then b_per, b_level, b_last = struct.unpack('<ddd', method_state) end

  local fits, within_quota, bucket_moved, window_moved = true, true, false, false
  local new_level, new_last, new_window, new_used = b_level, b_last, window, used
  local has_bucket = new_per > 0
  if has_bucket then
    new_level, new_last, bucket_moved = bucket_at(b_per, b_level, b_last, burst, rate, new_per, now)
    fits = rate > 0 and cost * new_per <= new_level
  else
    new_per = b_per
  end
  if quota >= 0 then
    local _, goes_on
    new_window, _, goes_on, window_moved = window_at(window, first_day, second_day, third_day, now)
    if not goes_on then new_used = 0 end
    within_quota = new_used + cost <= quota
  end
  -- As under a plan in force: a denial leaves the state as it was, but for a step back of the clock.
  local admits = fits and within_quota
  if admits then
    if has_bucket then new_level = new_level - cost * new_per end
    if quota >= 0 then new_used = new_used + cost end
  elseif fits then
    exceeded = exceeded + 1
  else
    throttled = throttled + 1
  end
  if admits or bucket_moved then b_per, b_level, b_last = new_per, new_level, new_last end
  if admits or window_moved then window, used = new_window, new_used end

  local packed_method
  if method_state == nil then
    per, level, last = b_per, b_level, b_last
  elseif method_state or b_per > 0 then
    packed_method = struct.pack('<ddd', b_per, b_level, b_last)
  end
  return struct.pack('<dddddddd', per, level, last, window, used, throttled, exceeded, seen + 1), packed_method
end
