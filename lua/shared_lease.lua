-- shared_lease: prepay units of one bucket that all callers share, where it lies in another slot than their keys.
--
-- KEYS[1]    the shared bucket
-- ARGV[1]    now_us (0: the server's clock), flags; burst, rate, per of the bucket; units that callers wait for, and in
--            multiples of how many they serve; units asked ahead; of this process: its demand in an epoch, the units
--            asked of it since its last request, and the epoch that it saw last (11 doubles); version of the catalogue
--            (18 bytes); then of each batch that is returned: units, charged_us, microseconds since it was requested
--            by the caller's own clock (3 doubles each)
-- returns    {1, now_us, lease}    `lease` is 6 doubles: units granted; level and last_us after it; epoch; for how many
--                                  microseconds not to ask again; what was credited, in units of 1/per
-- returns    {-2, now_us}          look again: catalogue behind; nothing is charged
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <key>
--
-- Flags: 2, the caller has found nothing newer; 64, a peek, which writes nothing.
--
-- A returned unit is credited as much as the bucket would have more now, had it never been charged: that difference
-- starts as the unit and shrinks only while the bucket would be full, so it is the least that the bucket has missed to
-- full since. This least debt is kept for the present epoch and for the one before. Units that were charged before
-- `since_us` are not credited: the state was lost, its clock set back, or it got another limit.

-- @include lib/constants
-- @include lib/packing
-- @include lib/validity
-- @include lib/token_bucket
-- @inline inline/retry_statuses

local CARRIED_OUT, EPOCH_US = 1, 125000 -- an epoch is 1.25 terms of a lease
local REQUEST_SIZE, RETURN_SIZE, TOKEN_AT, TOKEN_SIZE, STATE_SIZE = 106, 24, 89, 18, 122
local SMALL_BURST = 8 -- a smaller bucket gives nothing ahead
local MANY_ASKS = 2500 -- in an epoch: from here on, processes wait between requests
local ASK_US, LEAST_PACE_US, MOST_PACE_US = 50, 2000, 50000

local call, key, request = redis.call, KEYS[1], ARGV[1]
if #KEYS ~= 1 or not request or #request < REQUEST_SIZE or (#request - REQUEST_SIZE) % RETURN_SIZE ~= 0 then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local now, flags, burst, rate, per, waiting, multiple, ahead, demand, asked, epoch_seen =
  unpack_doubles('<ddddddddddd', request)
local nothing_newer, peeks = flags == 2 or flags == 66, flags >= 64
if not are_integers(now, burst, rate, per, waiting, multiple, ahead, demand, asked, epoch_seen)
  or now < 0 or flags ~= 0 and flags ~= 2 and flags ~= 64 and flags ~= 66
  or burst < 0 or rate < 0 or per < 1 or not (math.max(burst, 3) * per + rate <= MAX_INTEGER)
  or waiting < 0 or multiple < 1 or ahead < 0 or demand < 0 or asked < 0
  or peeks and (waiting > 0 or ahead > 0 or #request > REQUEST_SIZE)
then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local under_callers_clock = now > 0
if not under_callers_clock then
  -- @inline inline/server_time
end

-- 1. The state: of a bucket per, level, last_us; since_us; the epoch, and for it and the one before it the least debt,
-- how many processes asked, how many units they were asked for, and how often they asked; version of the catalogue.
local state, version = call('GET', key), string.sub(request, TOKEN_AT, TOKEN_AT + TOKEN_SIZE - 1)
local stored_per, level, last, since, epoch, stored_version = 0, 0, 0, 0, 0, nil
local least, askers, units, asks, least_before, askers_before, units_before, asks_before = 0, 0, 0, 0, 0, 0, 0, 0
if state then
  if #state ~= BUCKET_SIZE and #state ~= STATE_SIZE or not is_bucket(unpack_doubles('<ddd', state)) then
    return redis.error_reply('RATELIMIT CORRUPT ' .. KEYS[1])
  end
  stored_per, level, last = unpack_doubles('<ddd', state)
end
local last_stored = last
if state and #state == STATE_SIZE then
  since, epoch, least, askers, units, asks, least_before, askers_before, units_before, asks_before =
    unpack_doubles('<dddddddddd', state, BUCKET_SIZE + 1)
  stored_version = string.sub(state, -TOKEN_SIZE)
  if not are_integers(since, epoch, least, askers, units, asks, least_before, askers_before, units_before, asks_before)
    or math.min(least, askers, units, asks, least_before, askers_before, units_before, asks_before) < 0
  then
    return redis.error_reply('RATELIMIT CORRUPT ' .. KEYS[1])
  end
end
local is_new = stored_version ~= version
if is_new and stored_version and not nothing_newer and not peeks
  and (string.sub(stored_version, 1, 8) ~= string.sub(version, 1, 8)
    or string.sub(stored_version, 9) > string.sub(version, 9))
then
  return { CATALOG_BEHIND, now }
end

-- 2. The bucket as it stands now. Its own time goes on where the clock was set back a little.
local full, moved = burst * per, false
level, last, moved = bucket_at(stored_per, level, last, burst, rate, per, now)
if peeks then
  return { CARRIED_OUT, now, pack_doubles('<dddddd', 0, level, last, (last - last % EPOCH_US) / EPOCH_US, 0, 0) }
end
local debt, now_epoch = full - level, (last - last % EPOCH_US) / EPOCH_US
if is_new then least, least_before = 0, 0 end
if is_new or moved then since = last end
if now_epoch ~= epoch then
  if now_epoch == epoch + 1 then
    least_before, askers_before, units_before, asks_before = math.min(least, debt), askers, units, asks
  else
    -- Nobody asked in the epoch before: its debt was never less than now.
    least_before, askers_before, units_before, asks_before = debt, 0, 0, 0
  end
  epoch, least, askers, units, asks = now_epoch, debt, 0, 0, 0
  if is_new then least, least_before = 0, 0 end
end
least = math.min(least, debt)

-- 3. What is returned.
local credited = 0
for at = REQUEST_SIZE + 1, #request, RETURN_SIZE do
  local returned, charged_us, waited_us = unpack_doubles('<ddd', request, at)
  if not are_integers(returned, charged_us, waited_us) or returned < 0 or waited_us < 0 then
    return redis.error_reply('RATELIMIT ARGUMENTS')
  end
  local elapsed = math.max(last - charged_us, waited_us)
  -- A journal may have charged less than was spent where it charged below zero: nothing is credited there.
  if not is_new and charged_us >= since and charged_us <= last and level >= 0 then
    local credit = math.max(0, returned * per - elapsed * rate)
    local charged_epoch = last - elapsed
    charged_epoch = (charged_epoch - charged_epoch % EPOCH_US) / EPOCH_US
    if charged_epoch >= epoch - 1 then
      local least_debt = math.min(returned * per, least)
      if charged_epoch < epoch then least_debt = math.min(least_debt, least_before) end
      if least_debt > credit then credit = least_debt end
    end
    if credit > debt then credit = debt end
    level, debt, credited = level + credit, debt - credit, credited + credit
    least, least_before = math.max(0, least - credit), math.max(0, least_before - credit)
  end
end

-- 4. What is granted: first to those who wait, then ahead, a share of half of what is left.
if epoch_seen ~= epoch then askers = askers + 1 end
units, asks = math.min(units + asked, MAX_INTEGER), asks + 1
local many, recent_askers = math.max(units, units_before), math.max(askers, askers_before)
local share = 1
if many > demand then share = demand / many end
local whole = 0
if rate > 0 and level > 0 then whole = (level - level % per) / per end
local granted = waiting
if granted > whole then granted = whole - whole % multiple end
if granted == waiting and burst >= SMALL_BURST then
  local left = whole - granted
  local most = math.floor(left / 2 * share)
  granted = granted + math.min(ahead, most)
end
level = level - granted * per
local pace = 0
if math.max(asks, asks_before) > MANY_ASKS and rate > 0 then
  pace = math.max(recent_askers * ASK_US, LEAST_PACE_US)
  if share > 0 then pace = math.max(pace, 2 * per / (rate * share)) end
  pace = math.floor(math.min(pace, MOST_PACE_US, burst * per / (2 * rate)))
end

-- 5. Write. The value begins as that of any shared bucket, and expires as one: once it is full.
state = pack_doubles('<ddddddddddddd', per, level, last, since, epoch, least, askers, units, asks, least_before,
  askers_before, units_before, asks_before) .. string.sub(request, TOKEN_AT, REQUEST_SIZE)
if under_callers_clock then
  call('SET', key, state)
elseif last_stored < now - now % EXPIRY_STEP_US then
  local fill_us = rate > 0 and (full - math.min(0, level)) / rate or 0
  local milliseconds = (2 * EXPIRY_STEP_US + fill_us) / 1000
  call('SET', key, state, 'PX', milliseconds - milliseconds % 1)
else
  call('SETRANGE', key, '0', state)
end
return { CARRIED_OUT, now, pack_doubles('<dddddd', granted, level, last, epoch, pace, credited) }
