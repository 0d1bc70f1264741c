-- quota_window: at most `limit` units in each calendar window.
--
-- State, 24 bytes: start_us, stop_us, used (3 x u64). No state means nothing used.
-- The caller works out the calendar and sends two neighbouring windows, [first, second) and [second, third);
-- the clock of this script chooses. A window is known by both of its ends: another period is another window.

-- The window in force at `now`: start, stop, used, and whether it had to be re-anchored.
-- Nothing if `now` lies in neither of the caller's windows.
local function window_at(state, first, second, third, now)
  local start, stop
  if now >= first and now < second then
    start, stop = first, second
  elseif now >= second and now < third then
    start, stop = second, third
  else
    return nil
  end
  if not state then return start, stop, 0, false end
  local old_start, old_stop, used = struct.unpack('<I8I8I8', state)
  if now < old_start then
    -- The clock went back over the window's start. Windows only roll forward: the count is kept.
    if old_start - now <= TOLERANCE_US then return old_start, old_stop, used, false end
    return start, stop, used, true
  end
  if old_start == start and old_stop == stop then return start, stop, used, false end
  return start, stop, 0, false
end
