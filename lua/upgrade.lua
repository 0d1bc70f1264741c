-- upgrade: rename what schema 1 stored to the names of schema 2, all at once.
--
-- KEYS[1]    catalogue of schema 1
-- KEYS[2]    catalogue of schema 2
-- KEYS[3..]  in pairs: another name of schema 1, and its name of schema 2; where the old name of one pair is the new
--            name of another, it comes before that
-- ARGV[1]    version of the catalogue of schema 1
-- ARGV[2]    its members, '' for none: how often a key joined a plan
-- ARGV[3]    channel of changes
-- returns    {1, renamed}, or {0, 0} if the catalogue has changed meanwhile, and nothing was written
-- errors     RATELIMIT OCCUPIED <key>
--
-- The former name of the catalogue keeps a text, so that clients which support schema 1 alone stop, instead of finding
-- an empty catalogue and answering that every key is unknown. The field `upgrading` marks what is left to do, until it
-- is done.

local stored = redis.call('HMGET', KEYS[1], 'version', 'members')
if stored[1] ~= ARGV[1] or (stored[2] or '') ~= ARGV[2] then return { 0, 0 } end
local is_old_name = {}
for i = 1, #KEYS, 2 do
  local new_name = KEYS[i + 1]
  is_old_name[KEYS[i]] = true
  if not is_old_name[new_name] and redis.call('EXISTS', new_name) == 1 then
    return redis.error_reply('RATELIMIT OCCUPIED ' .. new_name)
  end
end
local renamed = 0
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
    renamed = renamed + 1
  end
end
redis.call('HSET', KEYS[2], 'schema', '2', 'upgrading', '1')
redis.call('SET', KEYS[1], 'moved: schema 2')
redis.call('PUBLISH', ARGV[3], 'schema 2')
return { 1, renamed }
