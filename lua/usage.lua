-- usage: what a key used under a plan, day by day, and in the quota's window.
--
-- KEYS[1]    hash of the API key
-- KEYS[2]    archive of its closed days
-- ARGV[1]    plan id
-- returns    {window, used, granted, day, day_used, and for each closed day: day, used, balance}, 0 for what is absent
-- errors     RATELIMIT CORRUPT <field>
--
-- A balance is what was left of the quota when the day ended, -1 for a plan without one.

-- @include lib/constants
-- @include lib/packing
-- @include lib/validity
-- @inline inline/closed_day_size

local function corrupt(field)
  return redis.error_reply('RATELIMIT CORRUPT ' .. field)
end

local reply = { 0, 0, 0, 0, 0 }
local plan_field = 'p:' .. ARGV[1]
local state = redis.call('HGET', KEYS[1], plan_field)
if state then
  if #state ~= PLAN_STATE_SIZE then return corrupt(plan_field) end
  local _, _, _, calendar, used, granted, day_used = unpack_doubles('<ddddddd', state)
  if not are_integers(calendar, used, granted, day_used) then return corrupt(plan_field) end
  local window, day
  -- @inline inline/unpack_calendar
  reply = { window, used, granted, day, day_used }
end
for i, prefix in ipairs({ 'd:' .. ARGV[1] .. ':', ARGV[1] .. ':' }) do
  local names_and_values = redis.call('HGETALL', KEYS[i])
  for at = 1, #names_and_values, 2 do
    local name, value = names_and_values[at], names_and_values[at + 1]
    if string.sub(name, 1, #prefix) == prefix then
      local day = string.sub(name, #prefix + 1)
      if not string.find(day, '^%d+$') or #day > 6 or #value ~= CLOSED_DAY_SIZE then return corrupt(name) end
      local used, balance = unpack_doubles('<dd', value)
      if not are_integers(used, balance) then return corrupt(name) end
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = tonumber(day), used, balance
    end
  end
end
return reply
