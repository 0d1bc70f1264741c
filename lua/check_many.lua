-- check_many: what check.lua would answer to each of several usual checks, one after the other, in one call.
--
-- KEYS       of each check: the key's hash, then its shared buckets
-- ARGV[1]    of each check two bytes: how many further buckets its key's hash has, and how many shared ones it meets
-- ARGV[2..]  of each check: its request, and its hash fields, as for check.lua; no shadow, no alerts
-- returns    of each check: the new states, joined                                     admitted
--                           {0, now_us, for each limit: remaining, reset_us, wait_us}  denied
--                           -5: nothing is consumed, ask check.lua                     anything else
-- errors     RATELIMIT ARGUMENTS
--
-- What several checks share is read once and written once. A check that cannot be answered here spoils no other.

-- @include lib/packing

local ASK_ALONE = -5
local DAY_US = 86400000000
local KEPT_US = 30000000

local call, pcall, byte, find = redis.call, redis.pcall, string.byte, string.find
local time = call('TIME')
local server_us = time[1] * 1000000 + time[2]
local layout, replies = ARGV[1] or '', {}
local hashes, asked_at, buckets_of, changed, shared, charged_at, expiry, left_out = {}, {}, {}, {}, {}, {}, {}, nil
local keys, arguments = 0, 1
for i = 1, #layout - 1, 2 do
  local own_buckets, shared_buckets = byte(layout, i, i + 1)
  keys, arguments = keys + 1 + shared_buckets, arguments + 2 + own_buckets
  if #(ARGV[arguments - own_buckets - 1] or '') < 114 then return redis.error_reply('RATELIMIT ARGUMENTS') end
end
if keys ~= #KEYS or arguments ~= #ARGV or #layout % 2 ~= 0 then return redis.error_reply('RATELIMIT ARGUMENTS') end

local function write(key)
  local own, at, further = hashes[key], asked_at[key], buckets_of[key]
  if further == 0 then
    call('HSET', key, ARGV[at + 1], own[2])
  else
    local fields = { ARGV[at + 1], own[2] }
    for i = 1, further do fields[2 * i + 1], fields[2 * i + 2] = ARGV[at + 1 + i], own[i + 2] end
    call('HSET', key, unpack(fields))
  end
  changed[key] = nil
end

-- The hash as it stands after the checks before this one. Only what one question read is known of it.
local function hash_of(key, at, further)
  local own = hashes[key]
  if own then
    local before, same = asked_at[key], buckets_of[key] == further
    for i = 1, 1 + further do same = same and ARGV[before + i] == ARGV[at + i] end
    if same then return own end
    if changed[key] then write(key) end
  end
  if further == 0 then
    own = pcall('HMGET', key, 'r', ARGV[at + 1])
  else
    own = pcall('HMGET', key, 'r', unpack(ARGV, at + 1, at + 1 + further))
  end
  hashes[key], asked_at[key], buckets_of[key] = own, at, further
  return own
end

local request, given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day
local key_at, at = 1, 2
for i = 1, #layout / 2 do
  local own_buckets, shared_buckets = byte(layout, 2 * i - 1, 2 * i)
  if ARGV[at] ~= request then
    request = ARGV[at]
    given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
      struct.unpack('<ddddddddddd', request)
  end
  local now, key, buckets = given_us > 0 and given_us or server_us, KEYS[key_at], own_buckets + shared_buckets
  local own, reply, in_turn = hash_of(key, at, own_buckets), nil, true
  if left_out then
    -- Nobody overtakes a check that was left out: who meets a limit of its is left out as well.
    for k = key_at, key_at + shared_buckets do in_turn = in_turn and not left_out[KEYS[k]] end
  end
  if in_turn and own[1] and #own[1] == 26 and find(request, own[1], 89, true) == 89 and (valid_until == 0 or now < valid_until)
    and (flags == 1 or flags == 3) and cost % 1 == 0 and #request == 114 + 24 * buckets
  then
    local states, sound = nil, true
    if buckets > 0 then
      states = { nil, nil, nil }
      for b = 1, buckets do
        local state = own[b + 2]
        if b > own_buckets then
          local place = KEYS[key_at + b - own_buckets]
          state = shared[place]
          if state == nil then
            state = pcall('GET', place)
            shared[place] = state
          end
        end
        if state and (type(state) == 'table' or #state ~= 24) then sound = false end
        states[b] = state
      end
    end
    if sound then
      local refused, plan, packed, fill_us, window, used, granted
      -- @include lib/usual
      if reply and not refused then
        own[2], changed[key] = plan, true
        for b = 1, own_buckets do own[b + 2] = packed[b] end
        for b = own_buckets + 1, buckets do
          local place = KEYS[key_at + b - own_buckets]
          shared[place], charged_at[place] = packed[b], given_us
          expiry[place] = expiry[place] or fill_us[b]
        end
      end
    end
  end
  if not reply then
    left_out = left_out or {}
    for k = key_at, key_at + shared_buckets do left_out[KEYS[k]] = true end
  end
  replies[i] = reply or ASK_ALONE
  key_at, at = key_at + 1 + shared_buckets, at + 2 + own_buckets
end

for key in pairs(changed) do write(key) end
for place, given in pairs(charged_at) do
  if given > 0 then
    call('SET', place, shared[place])
  elseif expiry[place] then
    local milliseconds = (2 * KEPT_US + expiry[place]) / 1000
    call('SET', place, shared[place], 'PX', milliseconds - milliseconds % 1)
  else
    call('SETRANGE', place, '0', shared[place])
  end
end
return replies
