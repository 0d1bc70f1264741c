-- commit: apply a change of the catalogue, if nothing that it was computed from has changed meanwhile.
--
-- KEYS[1..]  every key that the guards and commands name
-- ARGV[1]    guards, JSON: [[key index, hash field or null, expected text or null for absent], ...]
-- ARGV[2]    commands, JSON: [[command, key index or 0 for none, argument, ...], ...]; STAMP is not a server command
-- returns    {1, 0} applied, or {0, guard} with the first guard that failed and nothing written
--
-- Optimistic concurrency for administrators: read, decide, commit; start over when a guard fails.

local function is_newer(stored, version_token)
  return string.sub(stored, 1, 8) == string.sub(version_token, 1, 8)
    and string.sub(stored, 9, 18) > string.sub(version_token, 9, 18)
end

-- STAMP writes the field `r` of a key's hash: the stamp of the record that holds from now on. Arguments: the stamp;
-- epoch and version of the catalogue that this commit was computed from; 1 if the key joins a plan. Only then does `r`
-- take over the version, and within an epoch only a greater one: a client with an older catalogue does not have
-- the plan. Otherwise `r` keeps the version under which the key was last charged. A missing `r` was lost with the hash.
local function set_version_token(key, stamp, version_token, joins)
  local stored = redis.call('HGET', key, 'r')
  local is_lost = not stored or #stored ~= 26
  if is_lost or joins == '1' and not is_newer(stored, version_token) then
    stored = version_token
  end
  return { 'HSET', key, 'r', string.sub(stored, 1, 18) .. string.sub(stamp, 1, 8) }
end

for i, guard in ipairs(cjson.decode(ARGV[1])) do
  local key, field, expected = KEYS[guard[1]], guard[2], guard[3]
  local actual
  if field == cjson.null then
    actual = redis.call('GET', key)
  else
    actual = redis.call('HGET', key, field)
  end
  if expected == cjson.null then expected = false end
  if actual ~= expected then return { 0, i } end
end

local commands = cjson.decode(ARGV[2])
for i, command in ipairs(commands) do
  local index = table.remove(command, 2)
  if index > 0 then table.insert(command, 2, KEYS[index]) end
  if command[1] == 'STAMP' then
    command = set_version_token(unpack(command, 2))
    commands[i] = command
  end
  -- A user without permission for all commands is refused before the first write, in the server's own words. Redis 6.2
  -- cannot check beforehand: there the script ends half way.
  if redis.acl_check_cmd and not redis.acl_check_cmd(unpack(command)) then return redis.pcall(unpack(command)) end
end
for _, command in ipairs(commands) do redis.call(unpack(command)) end
return { 1, 0 }
