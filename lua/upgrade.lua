-- upgrade: give what schema 1 stored the names of schema 2, all at once.
--
-- KEYS[1]    catalogue of schema 1
-- KEYS[2]    catalogue of schema 2
-- KEYS[3..]  in pairs: another name of schema 1, and its name of schema 2; one that is a name of both before the pair that
--            takes it over
-- ARGV[1]    version of the catalogue of schema 1
-- ARGV[2]    its members, '' for none: how often a key joined a plan
-- ARGV[3]    channel of changes
-- returns    {1, renamed}, or {0, 0} if the catalogue has moved meanwhile, and nothing was written
-- errors     RATELIMIT OCCUPIED <key>
--
-- The former name of the catalogue keeps a text, so that versions which know schema 1 alone stop, instead of finding it
-- empty: no key would be known to them. What is left to do after this has a mark, `upgrading`, until it is done.

local found = redis.call('HMGET', KEYS[1], 'version', 'members')
if found[1] ~= ARGV[1] or (found[2] or '') ~= ARGV[2] then return { 0, 0 } end
local is_old = {}
for i = 1, #KEYS, 2 do
  local place = KEYS[i + 1]
  is_old[KEYS[i]] = true
  if not is_old[place] and redis.call('EXISTS', place) == 1 then
    return redis.error_reply('RATELIMIT OCCUPIED ' .. place)
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
