-- archive: move the closed days of a key off the path of its checks, and forget the oldest.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- ARGV[1]    the first day (since 1970) to keep
-- returns    {moved, forgotten}

local moved, forgotten = 0, 0
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if string.sub(field, 1, 2) == 'd:' then
    redis.call('HSET', KEYS[2], string.sub(field, 3), redis.call('HGET', KEYS[1], field))
    redis.call('HDEL', KEYS[1], field)
    moved = moved + 1
  end
end
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local day = string.match(field, ':(%d+)$') -- anything else is not ours
  if day and tonumber(day) < tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[2], field)
    forgotten = forgotten + 1
  end
end
return { moved, forgotten }
