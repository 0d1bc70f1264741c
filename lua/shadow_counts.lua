-- shadow_counts: what the shadow of a plan counted for one key.
--
-- KEYS[1]    hash of the API key
-- ARGV[1]    hash field of the shadow's state
-- returns    {seen, throttled, exceeded}, requests; zeros where there is no state

-- @include lib/packing

local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state then return { 0, 0, 0 } end
local _, _, _, _, _, throttled, exceeded, seen = unpack_doubles('<dddddddd', state)
return { seen, throttled, exceeded }
