-- check_many: what check.lua would reply to several checks of the common kind, one after the other, in one call.
--
-- Checks often differ in their key alone: what they have in common is sent once, as a template.
--
-- KEYS       of each template its shared buckets, then of each check its key's hash
-- ARGV[1]    of each template two bytes: how many further buckets a key's hash has, and how many shared ones are met
-- ARGV[2]    of each check its version token (26 bytes)
-- ARGV[3]    of each check two bytes: the number of its template, from 1; whether another check here is of its key, 0
--            or 1. Empty if all have the first template and different keys
-- ARGV[4..]  of each template its request and its hash fields, as for check.lua; no shadow, no alerts, no key of
--            counted identities, and in place of the version token any 26 bytes
-- returns    of each check: the new states, joined                     admitted
--                           {0, now_us, limits}, as check.lua says     denied
--                           -5: nothing is consumed, call check.lua    anything else
-- errors     RATELIMIT ARGUMENTS
--
-- What several checks share is read once and written once. A check that cannot be judged here spoils no other.

-- @include lib/constants
-- @include lib/packing

local RETRY_INDIVIDUALLY = -5

local KEYS, ARGV, call, pcall, byte, sub = KEYS, ARGV, redis.call, redis.pcall, string.byte, string.sub
if #ARGV < 3 then return redis.error_reply('RATELIMIT ARGUMENTS') end
local templates, version_tokens, template_numbers = ARGV[1], ARGV[2], ARGV[3]
local checks, arguments_at, shared_before = #version_tokens / VERSION_TOKEN_SIZE, {}, {}
local shared_keys, arguments, further_buckets = 0, 3, 0
for number = 1, #templates / 2 do
  local key_buckets, shared_buckets = byte(templates, 2 * number - 1, 2 * number)
  arguments_at[number], shared_before[number] = arguments + 1, shared_keys
  shared_keys, arguments = shared_keys + shared_buckets, arguments + 2 + key_buckets
  further_buckets = further_buckets + key_buckets + shared_buckets
  if #(ARGV[arguments_at[number]] or '') < HEAD_SIZE then return redis.error_reply('RATELIMIT ARGUMENTS') end
end
if #templates % 2 ~= 0 or arguments ~= #ARGV or shared_keys + checks ~= #KEYS
  or template_numbers ~= '' and #template_numbers ~= 2 * checks
then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end

local now
-- @inline inline/server_time
local server_us = now
-- Of the template that the loop is at: its number, where its arguments start, and what follows from them. `given_us` is
-- the caller's clock, or 0.
local template, template_at, key_buckets, buckets, first_shared, request, plan_field, is_covered = -1
local given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day
local is_identity, is_special -- about an identity; or with buckets in the key's hash
local eligible, today, current_calendar, window_end, full, price, numbers, states, fill_us, is_shared_charged
-- Of keys that several checks here are of: the values of the hash as they stand after the checks before, where the
-- arguments start that name their fields, and whether they are to be written.
local hashes, fields_at, is_changed = {}, {}, {}
-- Of shared buckets: the state as it stands after the checks before; if it is to be written, the clock it was charged
-- by and the time in which it fills, if its expiry is to be renewed.
local shared_states, charged_by, shared_fill_us = {}, {}, {}
local replies, key_repeats = {}, 0
local deferred -- keys and shared buckets that checks meet which are not judged here
local read_hash, write_hash, current_hash, load_buckets, store_shared

-- Functions cost as much as a part of a check: they are made if they are needed.
if further_buckets > 0 or template_numbers ~= '' then
  function read_hash(key)
    return pcall('HMGET', key, 'r', unpack(ARGV, template_at + 1, template_at + 1 + key_buckets))
  end

  function write_hash(key, hash_values, at)
    local fields = {}
    for i = 1, #hash_values - 1 do fields[2 * i - 1], fields[2 * i] = ARGV[at + i], hash_values[i + 1] end
    call('HSET', key, unpack(fields))
  end

  -- The hash as it stands now. Of a hash only the fields of one template are remembered at a time.
  function current_hash(key)
    local hash_values, at = hashes[key], fields_at[key]
    if at == template_at then return hash_values end
    if hash_values and #hash_values == key_buckets + 2 then
      local same = true
      for i = 1, key_buckets + 1 do same = same and ARGV[at + i] == ARGV[template_at + i] end
      if same then return hash_values end
    end
    if is_changed[key] then write_hash(key, hash_values, at) end
    hash_values = read_hash(key)
    hashes[key], fields_at[key], is_changed[key] = hash_values, template_at, nil
    return hash_values
  end

  function load_buckets(first_bucket, last_bucket)
    eligible = true
    -- @inline inline/load_buckets
    return eligible
  end

  -- Make what this template's checks left of its shared buckets the state that the next template finds.
  function store_shared()
    for i = key_buckets + 1, buckets do
      local bucket_key = KEYS[first_shared + i - key_buckets]
      shared_states[bucket_key] = pack_doubles('<ddd', unpack(numbers, 7 * i - 6, 7 * i - 4))
      charged_by[bucket_key] = given_us
      shared_fill_us[bucket_key] = shared_fill_us[bucket_key] or fill_us and fill_us[i]
    end
    is_shared_charged = false
  end
end

for check = 1, checks do
  local number = 1
  if template_numbers ~= '' then number, key_repeats = byte(template_numbers, 2 * check - 1, 2 * check) end
  if number ~= template then
    if is_shared_charged then store_shared() end
    template, template_at, first_shared = number, arguments_at[number], shared_before[number]
    if template_at then
      key_buckets, buckets = byte(templates, 2 * number - 1, 2 * number)
      buckets, request, plan_field = key_buckets + buckets, ARGV[template_at], ARGV[template_at + 1]
      given_us, cost, valid_until, flags, plan_burst, plan_rate, plan_per, quota, first_day, second_day, third_day =
        unpack_doubles('<ddddddddddd', request)
      now = given_us > 0 and given_us or server_us
      is_covered = (flags == 1 or flags == 3) and cost % 1 == 0 -- an API key; and perhaps no newer catalogue
        and #request == HEAD_SIZE + BUCKET_SIZE * buckets and (valid_until == 0 or now < valid_until)
      is_identity, is_special = false, key_buckets > 0
      if flags >= 32 then
        -- An identity, perhaps one of those that are counted: how many there may be comes last in the request.
        is_identity, is_special = true, true
        is_covered = (flags % 128 == 33 or flags % 128 == 35) and flags < 256 and cost % 1 == 0
          and #request == HEAD_SIZE + BUCKET_SIZE * buckets + (flags >= 128 and 16 or 0)
      end
      states, fill_us = { nil, nil, nil }, nil
      for i = key_buckets + 1, buckets do
        local bucket_key = KEYS[first_shared + i - key_buckets]
        local state = shared_states[bucket_key]
        if state == nil then
          state = pcall('GET', bucket_key)
          shared_states[bucket_key] = state
        end
        if state and #state ~= BUCKET_SIZE then is_covered = false end -- an error's table has no length
        states[i] = state
      end
      if is_covered then
        -- @inline inline/request_terms
        is_covered = eligible and (buckets == 0 or load_buckets(key_buckets + 1, buckets))
      end
    else
      key_buckets, buckets, first_shared, is_covered = 0, 0, 0, false
    end
  end
  local key, is_next, hash_values, reply = KEYS[shared_keys + check], is_covered
  if deferred then
    -- No check overtakes a deferred one: a check that meets one of its limits is deferred too.
    is_next = is_next and not deferred[key]
    for i = first_shared + 1, first_shared + buckets - key_buckets do is_next = is_next and not deferred[KEYS[i]] end
  end
  if is_next then
    if key_repeats > 0 then
      hash_values = current_hash(key)
    elseif key_buckets > 0 then
      hash_values = read_hash(key)
    else
      hash_values = pcall('HMGET', key, 'r', plan_field)
    end
    is_next = hash_values[1] == sub(version_tokens, VERSION_TOKEN_SIZE * (check - 1) + 1, VERSION_TOKEN_SIZE * check)
  end
  if is_next and is_special then
    for i = 1, key_buckets do
      local state = hash_values[i + 2]
      if state and #state ~= BUCKET_SIZE then is_next = false end
      states[i] = state
    end
    if is_identity and is_next then
      -- The first charge in a half minute puts off the expiry of the hash: that is for check.lua.
      local charged_us, plan_state = now, hash_values[2]
      if (plan_per > 0 or key_buckets == 0) and plan_state and #plan_state == PLAN_STATE_SIZE then
        charged_us = unpack_doubles('<d', plan_state, 17)
      end
      for i = 1, key_buckets do
        charged_us = math.min(charged_us, states[i] and unpack_doubles('<d', states[i], 17) or 0)
      end
      is_next = charged_us >= now - now % EXPIRY_STEP_US
    end
    is_next = is_next and (key_buckets == 0 or load_buckets(1, key_buckets))
  end
  if is_next then
    local denied, new_plan
    -- @inline inline/fast_path
    if reply and not denied then
      is_shared_charged = buckets > key_buckets
      if key_repeats > 0 or key_buckets > 0 then
        hash_values[2] = new_plan
        for i = 1, key_buckets do
          local at = PLAN_STATE_SIZE + BUCKET_SIZE * i
          hash_values[i + 2] = sub(reply, at - BUCKET_SIZE + 1, at)
        end
        if key_repeats > 0 then
          is_changed[key] = true
        else
          write_hash(key, hash_values, template_at)
        end
      else
        call('HSET', key, plan_field, new_plan)
      end
    end
  end
  if not reply then
    deferred = deferred or {}
    deferred[key] = true
    for i = first_shared + 1, first_shared + buckets - key_buckets do deferred[KEYS[i]] = true end
  end
  replies[check] = reply or RETRY_INDIVIDUALLY
end

if is_shared_charged then store_shared() end
for key in pairs(is_changed) do write_hash(key, hashes[key], fields_at[key]) end
for bucket_key, callers_us in pairs(charged_by) do
  if callers_us > 0 then
    call('SET', bucket_key, shared_states[bucket_key])
  elseif shared_fill_us[bucket_key] then
    local milliseconds = (2 * EXPIRY_STEP_US + shared_fill_us[bucket_key]) / 1000
    call('SET', bucket_key, shared_states[bucket_key], 'PX', milliseconds - milliseconds % 1)
  else
    call('SETRANGE', bucket_key, '0', shared_states[bucket_key])
  end
end
return replies
