-- archive: move the closed days of a key off the path of its checks, and delete the oldest.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- ARGV[1]    the first day (since 1970) to keep
-- returns    {moved, deleted}
--
-- A field whose name does not end with a day stays where it is.

local moved, deleted = 0, 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.find(field, '^d:.*:%d+$') then
    redis.call('HSET', KEYS[2], string.sub(field, 3), redis.call('HGET', KEYS[1], field))
    redis.call('HDEL', KEYS[1], field)
    moved = moved + 1
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local day = tonumber(string.match(field, ':(%d+)$'))
  if day and day < tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[2], field)
    deleted = deleted + 1
  end
end
return { moved, deleted }
