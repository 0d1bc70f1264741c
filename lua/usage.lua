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

-- Whether all are whole numbers that are exact; not a number is less than nothing, and greater than nothing.
local function whole(...)
  for i = 1, select('#', ...) do
    local number = select(i, ...)
    if not (number > -2 ^ 53 and number < 2 ^ 53 and number % 1 == 0) then return false end
  end
  return true
end

local function corrupt(field)
  return redis.error_reply('RATELIMIT CORRUPT ' .. field)
end

local reply = { 0, 0, 0, 0, 0 }
local field = 'p:' .. ARGV[1]
local state = redis.call('HGET', KEYS[1], field)
if state then
  if #state ~= 56 then return corrupt(field) end
  local _, _, _, calendar, used, granted, day_used = struct.unpack('<ddddddd', state)
  if not whole(calendar, used, granted, day_used) then return corrupt(field) end
  local day = calendar % 1048576
  reply = { (calendar - day) / 1048576, used, granted, day, day_used }
end
for i, prefix in ipairs({ 'd:' .. ARGV[1] .. ':', ARGV[1] .. ':' }) do
  local fields = redis.call('HGETALL', KEYS[i])
  for at = 1, #fields, 2 do
    local name, value = fields[at], fields[at + 1]
    if string.sub(name, 1, #prefix) == prefix then
      local day = string.sub(name, #prefix + 1)
      if not string.find(day, '^%d+$') or #day > 6 or #value ~= 16 then return corrupt(name) end
      local used, balance = struct.unpack('<dd', value)
      if not whole(used, balance) then return corrupt(name) end
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = tonumber(day), used, balance
    end
  end
end
return reply
