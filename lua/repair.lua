-- repair: write the version token of a key whose hash was lost, so that checks of the key go on.
--
-- KEYS[1]    hash of the API key
-- ARGV[1]    the key's record, as the caller read it
-- ARGV[2]    version token: epoch and version of the caller's catalogue, stamp of the record
-- returns    1; 0 if the record is another one now or is gone, or the hash has a version token: nothing is written
--
-- The record is read here, so that a key which was deleted meanwhile does not come back. It is not among KEYS, because
-- a gateway may only read it, and servers want permission to write for all KEYS; it is in the hash's slot.

-- @include lib/constants

local key = KEYS[1]
local token = redis.call('HGET', key, 'r')
if token and #token == VERSION_TOKEN_SIZE then return 0 end
if redis.call('GET', key .. ':record') ~= ARGV[1] then return 0 end
redis.call('HSET', key, 'r', ARGV[2])
return 1
