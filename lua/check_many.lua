-- check_many: what check.lua would answer to each of several usual checks, one after the other, in one call.
--
-- Checks often ask alike but for whose key it is: what a question is made of is said once.
--
-- KEYS       of each question its shared buckets, then of each check its key's hash
-- ARGV[1]    of each question two bytes: how many further buckets a key's hash has, and how many shared ones are met
-- ARGV[2]    of each check its identity (26 bytes)
-- ARGV[3]    of each check two bytes: the number of its question, from 1; whether another check here is of its key,
--            0 or 1. Empty if all ask the first question, of different keys
-- ARGV[4..]  of each question its request and its hash fields, as for check.lua; no shadow, no alerts, and in place of
--            the identity any 26 bytes
-- returns    of each check: the new states, joined                     admitted
--                           {0, now_us, limits}, as check.lua says     denied
--                           -5: nothing is consumed, ask check.lua     anything else
-- errors     RATELIMIT ARGUMENTS
--
-- What several checks share is read once and written once. A check that cannot be answered here spoils no other.

-- @include lib/packing

local ASK_ALONE = -5
local DAY_US = 86400000000
local KEPT_US = 30000000

local KEYS, ARGV, call, pcall, byte, sub = KEYS, ARGV, redis.call, redis.pcall, string.byte, string.sub
local questions, identities, asked_by = ARGV[1] or '', ARGV[2] or '', ARGV[3] or ''
local checks, starts, shares, shared_keys, arguments, further = #identities / 26, {}, {}, 0, 3, 0
for number = 1, #questions / 2 do
  local own_buckets, shared_buckets = byte(questions, 2 * number - 1, 2 * number)
  starts[number], shares[number] = arguments + 1, shared_keys
  shared_keys, arguments = shared_keys + shared_buckets, arguments + 2 + own_buckets
  further = further + own_buckets + shared_buckets
  if #(ARGV[starts[number]] or '') < 114 then return redis.error_reply('RATELIMIT ARGUMENTS') end
end
if #questions % 2 ~= 0 or arguments ~= #ARGV or shared_keys + checks ~= #KEYS
  or asked_by ~= '' and #asked_by ~= 2 * checks
then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end

local time = call('TIME')
local server_us = time[1] * 1000000 + time[2]
local replies, question, again, at, field, own_buckets, buckets, first_shared, request, now, plain = {}, 0, 0
local given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day
local possible, today, this_calendar, window_end, full, price, numbers, states, fill_us, charged
-- Of keys that several checks here are of: the hash as it stands after the checks before. Of shared buckets alike.
local hashes, read_at, changed, shared, charged_at, expiry, left_out = {}, {}, {}, {}, {}, {}, nil
local read, write, known, hold, keep

-- Functions cost as much as a part of a check: they are made if somebody needs them.
if further > 0 or asked_by ~= '' then
  function read(key)
    return pcall('HMGET', key, 'r', unpack(ARGV, at + 1, at + 1 + own_buckets))
  end

  function write(key, own, its_at)
    local fields = {}
    for i = 1, #own - 1 do fields[2 * i - 1], fields[2 * i] = ARGV[its_at + i], own[i + 1] end
    call('HSET', key, unpack(fields))
  end

  -- Only the fields of one question are known of a hash at a time.
  function known(key)
    local own, before = hashes[key], read_at[key]
    if before == at then return own end
    if own and #own == own_buckets + 2 then
      local same = true
      for i = 1, own_buckets + 1 do same = same and ARGV[before + i] == ARGV[at + i] end
      if same then return own end
    end
    if changed[key] then write(key, own, before) end
    own = read(key)
    hashes[key], read_at[key], changed[key] = own, at, nil
    return own
  end

  function hold(first_held, last_held)
    possible = true
    -- @include lib/held
    return possible
  end

  -- What the question asked until now left of its shared buckets is there for the next.
  function keep()
    for b = own_buckets + 1, buckets do
      local place = KEYS[first_shared + b - own_buckets]
      shared[place], charged_at[place] = pack_doubles('<ddd', unpack(numbers, 7 * b - 6, 7 * b - 4)), given_us
      expiry[place] = expiry[place] or fill_us and fill_us[b]
    end
    charged = false
  end
end

for i = 1, checks do
  local number = 1
  if asked_by ~= '' then number, again = byte(asked_by, 2 * i - 1, 2 * i) end
  if number ~= question then
    if charged then keep() end
    question, at, first_shared = number, starts[number], shares[number]
    if at then
      own_buckets, buckets = byte(questions, 2 * number - 1, 2 * number)
      buckets, request, field = own_buckets + buckets, ARGV[at], ARGV[at + 1]
      given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
        unpack_doubles('<ddddddddddd', request)
      now = given_us > 0 and given_us or server_us
      plain = (flags == 1 or flags == 3) and cost % 1 == 0 and #request == 114 + 24 * buckets
        and (valid_until == 0 or now < valid_until)
      states, fill_us = { nil, nil, nil }, nil
      for b = own_buckets + 1, buckets do
        local place = KEYS[first_shared + b - own_buckets]
        local state = shared[place]
        if state == nil then
          state = pcall('GET', place)
          shared[place] = state
        end
        if state and (type(state) == 'table' or #state ~= 24) then plain = false end
        states[b] = state
      end
      if plain then
        -- @include lib/terms
        plain = possible and (buckets == 0 or hold(own_buckets + 1, buckets))
      end
    else
      own_buckets, buckets, first_shared, plain = 0, 0, 0, false
    end
  end
  local key, in_turn, own, reply = KEYS[shared_keys + i], plain
  if left_out then
    -- Nobody overtakes a check that was left out: who meets a limit of its is left out as well.
    in_turn = in_turn and not left_out[key]
    for k = first_shared + 1, first_shared + buckets - own_buckets do in_turn = in_turn and not left_out[KEYS[k]] end
  end
  if in_turn then
    if again > 0 then
      own = known(key)
    elseif own_buckets > 0 then
      own = read(key)
    else
      own = pcall('HMGET', key, 'r', field)
    end
    in_turn = own[1] == sub(identities, 26 * i - 25, 26 * i)
  end
  if in_turn and own_buckets > 0 then
    for b = 1, own_buckets do
      local state = own[b + 2]
      if state and #state ~= 24 then in_turn = false end
      states[b] = state
    end
    in_turn = in_turn and hold(1, own_buckets)
  end
  if in_turn then
    local refused, plan
    -- @include lib/usual
    if reply and not refused then
      charged = buckets > own_buckets
      if again > 0 or own_buckets > 0 then
        own[2] = plan
        for b = 1, own_buckets do own[b + 2] = sub(reply, 33 + 24 * b, 56 + 24 * b) end
        if again > 0 then
          changed[key] = true
        else
          write(key, own, at)
        end
      else
        call('HSET', key, field, plan)
      end
    end
  end
  if not reply then
    left_out = left_out or {}
    left_out[key] = true
    for k = first_shared + 1, first_shared + buckets - own_buckets do left_out[KEYS[k]] = true end
  end
  replies[i] = reply or ASK_ALONE
end

if charged then keep() end
for key in pairs(changed) do write(key, hashes[key], read_at[key]) end
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
