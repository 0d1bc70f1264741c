-- count: what a key used under a plan: in the quota's calendar window, and in the current day (UTC) for metering.
--
-- State, 48 bytes: start_us, stop_us, used, granted, day, day_used (6 x u64). No state means nothing used.
--   admit      used + cost <= limit + granted
--   wait       until stop_us; for ever if cost > limit
-- `granted` is an extension for this window alone. A plan without a quota has no window: start and stop are 0.
-- The caller works out the calendar and sends two neighbouring windows, [first, second) and [second, third);
-- the clock of this script chooses. A window is known by both of its ends: another period is another window.

local DAY_US = 86400000000
local NO_QUOTA = 9007199254740991

local function count_from(state)
  local start, stop, used, granted, day, day_used = 0, 0, 0, 0, 0, 0
  if state then start, stop, used, granted, day, day_used = struct.unpack('<I8I8I8I8I8I8', state) end
  return { start = start, stop = stop, used = used, granted = granted, day = day, day_used = day_used }
end

-- Bring the count to the window in force at `now`; false if `now` lies in neither of the caller's windows.
local function move_to_window(count, first, second, third, now)
  local start, stop
  if now >= first and now < second then
    start, stop = first, second
  elseif now >= second and now < third then
    start, stop = second, third
  else
    return false
  end
  if now < count.start then
    -- The clock went back over the window's start. Windows only roll forward: the count is kept.
    if count.start - now > TOLERANCE_US then count.start, count.stop, count.moved = start, stop, true end
  elseif count.start ~= start or count.stop ~= stop then
    count.start, count.stop, count.used, count.granted = start, stop, 0, 0
  end
  return true
end

-- Add to the count. Days only roll forward; of a day that ends here, returns its number and its two final figures.
local function add_to_count(count, cost, now, balance)
  local today, closed_day, closed = math.floor(now / DAY_US), nil, nil
  if today > count.day then
    if count.day_used > 0 then closed_day, closed = count.day, struct.pack('<I8I8', count.day_used, balance) end
    count.day, count.day_used = today, 0
  end
  count.used, count.day_used = count.used + cost, count.day_used + cost
  return closed_day, closed
end

local function packed_count(count)
  return struct.pack('<I8I8I8I8I8I8', count.start, count.stop, count.used, count.granted, count.day, count.day_used)
end
