-- quota_window: a quota counts in calendar windows of whole days, UTC. A window is one number, first day * WINDOW_BASE
-- + number of days, so another period is another window. 0 stands for no window yet.
--
-- The caller computes the calendar and sends the first days of three consecutive windows; the script's clock chooses
-- between the first two. Returns the window, the day after its last, whether the count of the stored window goes on,
-- and whether a step back of the clock re-anchored it; nothing if `now` lies in neither window.
local function window_at(stored, first_day, second_day, third_day, now)
  -- @inline inline/calendar_units
  local window_start, window_end = first_day, second_day
  if now >= second_day * DAY_US then window_start, window_end = second_day, third_day end
  if now < window_start * DAY_US or now >= window_end * DAY_US then return nil end
  local window = window_start * WINDOW_BASE + window_end - window_start
  local days = stored % WINDOW_BASE
  local stored_start = (stored - days) / WINDOW_BASE
  if now >= stored_start * DAY_US then return window, window_end, stored == window, false end
  -- The clock went back over the start of the stored window. Windows only roll forward: the count goes on. The
  -- tolerance is that of token buckets.
  -- @inline inline/clock_tolerance
  if stored_start * DAY_US - now <= CLOCK_TOLERANCE_US then return stored, stored_start + days, true, false end
  return window, window_end, true, true
end
