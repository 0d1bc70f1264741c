-- clock: one time for the whole script, and one rule for a clock that went back.

-- A clock may run back by this much (replicas of one server, small corrections by NTP) without a limit noticing:
-- its state keeps the later time. A larger step is a new truth: the state is anchored to it.
local TOLERANCE_US = 2000000

-- Microseconds since 1970: the caller's clock if it sent one (tests, replays), else the server's.
local function now_or_server_time(callers_us)
  if callers_us > 0 then return callers_us end
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
