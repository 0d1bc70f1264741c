-- commit: apply a change of the catalogue, if nothing that it was worked out from has moved meanwhile.
--
-- KEYS[1..]  every key that the guards and commands name
-- ARGV[1]    guards, JSON: [[key index, hash field or null, expected text or null for absent], ...]
-- ARGV[2]    commands, JSON: [[command, key index or 0 for none, argument, ...], ...]
-- returns    {1, 0} applied, or {0, guard} with the first guard that failed and nothing written
--
-- Optimistic concurrency for administrators: read, decide, commit; start over when a guard fails.

for i, guard in ipairs(cjson.decode(ARGV[1])) do
  local key, field, expected = KEYS[guard[1]], guard[2], guard[3]
  local found
  if field == cjson.null then
    found = redis.call('GET', key)
  else
    found = redis.call('HGET', key, field)
  end
  if expected == cjson.null then expected = false end
  if found ~= expected then return { 0, i } end
end

local commands = cjson.decode(ARGV[2])
for _, command in ipairs(commands) do
  local index = table.remove(command, 2)
  if index > 0 then table.insert(command, 2, KEYS[index]) end
  -- A user who may not do all of it is refused before the first write, in the server's own words. Redis 6.2 cannot tell
  -- beforehand: there it ends half way.
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then return redis.pcall(unpack(command)) end
end
for _, command in ipairs(commands) do redis.call(unpack(command)) end
return { 1, 0 }
