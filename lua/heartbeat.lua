-- heartbeat: say that a process lives, and count those that do.
--
-- KEYS[1]    set of all processes, scored by the time of its last heartbeat, in us
-- ARGV[1]    now_us (0: the server's clock), in decimal
-- ARGV[2]    life of the process: 8 characters, random, new with each start
-- ARGV[3]    "leave" when it ends; else absent
-- returns    how many processes are left, with this one unless it leaves
-- errors     RATELIMIT ARGUMENTS
--
-- A process without a heartbeat for 15 s does not count, and is removed. Nothing is written for one that is not named.

local call, life, now = redis.call, ARGV[2], tonumber(ARGV[1])
if not now or not life or #life ~= 8 or ARGV[3] and ARGV[3] ~= 'leave' then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local SILENT_US, KEPT_MS = 15000000, 60000
local under_callers_clock = now > 0
if not under_callers_clock then
  -- @inline inline/server_time
end
call('ZADD', KEYS[1], ARGV[3] and '-inf' or now, life)
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - SILENT_US)
-- Under a caller's clock nothing expires: Redis goes by its own.
if not under_callers_clock then call('PEXPIRE', KEYS[1], KEPT_MS) end
return call('ZCOUNT', KEYS[1], '-inf', '+inf')
