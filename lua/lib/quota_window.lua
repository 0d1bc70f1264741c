-- quota_window: a quota counts in calendar windows of whole days, UTC. A window is one number, first day * 64 + days;
-- another period is so another window. 0 stands for no window yet. In a plan's state it shares a number with the day of
-- metering, its calendar: window * 1048576 + day. A number less is what a hash saves, and a check compares.
--
-- The caller works out the calendar and sends the first days of three windows in a row; this clock chooses one of the
-- first two. Returns the window's first day and the day after its last, whether the count in `window` goes on, and
-- whether a step back of the clock re-anchored it; nothing if `now` lies in neither.
local function window_at(window, first, second, third, now)
  local day_us = 86400000000
  local from, to = first, second
  if now >= second * day_us then from, to = second, third end
  if now < from * day_us or now >= to * day_us then return nil end
  local days = window % 64
  local started = (window - days) / 64
  if now >= started * day_us then return from, to, started == from and days == to - from, false end
  -- The clock went back over the window's start. Windows only roll forward: the count is kept. The tolerance is that
  -- of token buckets.
  if started * day_us - now <= 2000000 then return started, started + days, true, false end
  return from, to, true, true
end
