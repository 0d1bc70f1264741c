-- usage: what a key used under a plan, day by day, and in the quota's window.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- ARGV[1]    plan id
-- returns    {window, used, granted, day, day_used, and for each closed day: day, used, balance}, numbers 0 if unknown
-- errors     RATELIMIT CORRUPT <field>
--
-- A balance is what was left of the quota when the day ended, -1 for a plan without one.

-- @include lib/packing

local reply = { 0, 0, 0, 0, 0 }
local field = 'p:' .. ARGV[1]
local state = redis.call('HGET', KEYS[1], field)
if state then
  if #state ~= 56 then return redis.error_reply('RATELIMIT CORRUPT ' .. field) end
  local _, _, _, calendar, used, granted, day_used = struct.unpack('<ddddddd', state)
  local sum = calendar + used + granted + day_used
  local day = calendar % 1048576
  if sum - sum ~= 0 or sum % 1 ~= 0 or day > 99999 then return redis.error_reply('RATELIMIT CORRUPT ' .. field) end
  reply = { (calendar - day) / 1048576, used, granted, day, day_used }
end
for i, prefix in ipairs({ 'd:' .. ARGV[1] .. ':', ARGV[1] .. ':' }) do
  local fields = redis.call('HGETALL', KEYS[i])
  for at = 1, #fields, 2 do
    local place, value = fields[at], fields[at + 1]
    local day = string.sub(place, 1, #prefix) == prefix and string.match(place, '^%d+$', #prefix + 1)
    if day then
      if #day > 5 or #value ~= 16 then return redis.error_reply('RATELIMIT CORRUPT ' .. place) end
      local used, balance = struct.unpack('<dd', value)
      local sum = used + balance
      if sum - sum ~= 0 or sum % 1 ~= 0 then return redis.error_reply('RATELIMIT CORRUPT ' .. place) end
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = tonumber(day), used, balance
    end
  end
end
return reply
