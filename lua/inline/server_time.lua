-- server_time: the time by the server's clock, in microseconds since 1970-01-01 UTC.
--
-- Reads   call
-- Leaves  now
local time = call('TIME')
now = time[1] * 1000000 + time[2]
