-- check: admit or refuse one request against every limit that applies to it, all or nothing.
--
-- KEYS[1]    hash of the API key, if flag 1 is set
-- KEYS[..]   then one shared bucket for each limit of kind 2, in order
-- ARGV[1]    request, 56 bytes: now_us, cost, valid_until_us, flags (4 x u64), epoch (8 bytes), version (u64),
--            stamp (8 bytes)
-- ARGV[2]    limits, 40 bytes each: kind and four numbers (5 x u64)
-- ARGV[3..]  hash field of each limit that is not of kind 2, in order
-- returns    {1 | 0, now_us, limited, retry_us, closed, and for each limit: remaining, reset_us, retry_us}
-- returns    {-1 | -2 | -3 | -4, now_us} when the caller has to look again; nothing is consumed
-- errors     RATELIMIT ARGUMENTS | RATELIMIT CORRUPT <limit>
--
-- Everything is read and judged before anything is written. lua/README.md is the contract in full.

-- @include lib/packing
-- @include lib/clock
-- @include lib/token_bucket
-- @include lib/count

local OWN_BUCKET, SHARED_BUCKET, QUOTA, METER = 1, 2, 3, 4
local ADMITTED, DENIED = 1, 0
local KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
local NEVER = -1
local REQUEST_BYTES, LIMIT_BYTES, BUCKET_BYTES, COUNT_BYTES = 56, 40, 24, 48
local SHARED_KEEP_MS = 60000

if #ARGV < 2 or #ARGV[1] ~= REQUEST_BYTES or #ARGV[2] % LIMIT_BYTES ~= 0 then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end
local callers_us, cost, valid_until, flags = struct.unpack('<I8I8I8I8', ARGV[1])
local fence, stamp = string.sub(ARGV[1], 33, 48), string.sub(ARGV[1], 49, 56)
local has_key, catalog_is_fresh = flags % 2 == 1, flags >= 2
local now = now_or_server_time(callers_us)

-- 1. Is the caller up to date about this key and about the catalogue?
local own, new_fence
if has_key then
  own = redis.call('HMGET', KEYS[1], 'r', 'v', unpack(ARGV, 3))
  if own[1] ~= stamp then return { KEY_CHANGED, now } end
  if valid_until > 0 and now >= valid_until then return { KEY_EXPIRED, now } end
  local seen = own[2]
  if seen ~= fence then
    if seen then
      if string.sub(seen, 1, 8) ~= string.sub(fence, 1, 8) then
        -- Another life of the catalogue: only a caller that has just loaded it can know which one holds.
        if not catalog_is_fresh then return { CATALOG_BEHIND, now } end
      elseif struct.unpack('<I8', seen, 9) > struct.unpack('<I8', fence, 9) then
        return { CATALOG_BEHIND, now }
      end
    end
    new_fence = fence
  end
end

-- 2. Judge every limit. Cost 0 asks what cost 1 would get.
local asked = cost > 0 and cost or 1
local limits, limited, retry, moved = {}, 0, 0, false
local shared, field = has_key and 1 or 0, 0
for i = 1, #ARGV[2] / LIMIT_BYTES do
  local kind, a, b, c, d = struct.unpack('<I8I8I8I8I8', ARGV[2], LIMIT_BYTES * (i - 1) + 1)
  local limit, wait, state = { kind = kind }, 0, nil
  if kind == SHARED_BUCKET then
    shared = shared + 1
    limit.key = KEYS[shared]
    state = limit.key and redis.call('GET', limit.key)
  else
    field = field + 1
    limit.field = ARGV[field + 2]
    state = own and own[field + 2]
  end
  if state and #state ~= (kind < QUOTA and BUCKET_BYTES or COUNT_BYTES) then
    return redis.error_reply('RATELIMIT CORRUPT ' .. i)
  end

  if kind < QUOTA then
    local burst, rate, per = a, b, c
    limit.burst, limit.rate, limit.per = burst, rate, per
    limit.level, limit.last, limit.moved = bucket_at(state, burst, rate, per, now)
    if rate == 0 or asked > burst then
      wait = NEVER
    elseif asked * per > limit.level then
      wait = limit.last - now + math.ceil((asked * per - limit.level) / rate)
    end
  else
    local count, most = count_from(state), a
    limit.count, limit.balance = count, NO_QUOTA
    if kind == QUOTA then
      limit.balance = math.max(0, most + count.granted - count.used)
      if not move_to_window(count, b, c, d, now) then return { WINDOWS_PAST, now } end
      limit.most, limit.moved = most + count.granted, count.moved
      if count.used + asked > limit.most then
        wait = asked > most and NEVER or count.stop - now
      end
    end
  end

  if wait ~= 0 then
    if limited == 0 then limited = i end
    if wait == NEVER or retry == NEVER then retry = NEVER else retry = math.max(retry, wait) end
  end
  limit.wait = wait
  moved = moved or limit.moved
  limits[i] = limit
end
if shared ~= #KEYS or field ~= #ARGV - 2 or (field > 0 and not own) then
  return redis.error_reply('RATELIMIT ARGUMENTS')
end

-- 3. Charge if all admit. A denied check writes only what a step back of the clock re-anchored.
local admitted = limited == 0
local charge = admitted and cost or 0
local reply = { admitted and ADMITTED or DENIED, now, limited, retry, 0 }
local changed = {}
if new_fence and charge > 0 then changed = { 'v', new_fence } end
for i = 1, #limits do
  local limit = limits[i]
  local writes = cost > 0 and (admitted or limit.moved)
  local count = limit.count
  local remaining, reset, packed
  if not count then
    limit.level = limit.level - charge * limit.per
    if limit.rate == 0 then
      remaining, reset = 0, NEVER
    else
      remaining = math.floor(limit.level / limit.per)
      reset = limit.last - now + math.ceil((limit.burst * limit.per - limit.level) / limit.rate)
    end
    if writes then packed = struct.pack('<I8I8I8', limit.per, limit.level, limit.last) end
  else
    if charge > 0 then
      local day, figures = add_to_count(count, charge, now, limit.balance)
      if day then
        -- "q:gold" counts, "d:gold:20500" keeps a day that is over, until somebody moves it to the archive.
        changed[#changed + 1] = string.format('d%s:%.0f', string.sub(limit.field, 2), day)
        changed[#changed + 1] = figures
        reply[5] = reply[5] + 1
      end
    end
    if limit.most then
      remaining, reset = math.max(0, limit.most - count.used), count.stop - now
    else
      remaining, reset = NEVER, NEVER
    end
    if writes then packed = packed_count(count) end
  end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = remaining, reset, limit.wait

  if writes then
    if limit.field then
      changed[#changed + 1], changed[#changed + 2] = limit.field, packed
    elseif callers_us > 0 then
      redis.call('SET', limit.key, packed)
    else
      redis.call('SET', limit.key, packed, 'PX', SHARED_KEEP_MS + math.max(0, math.ceil(reset / 1000)))
    end
  end
end
if #changed > 0 then redis.call('HSET', KEYS[1], unpack(changed)) end
return reply
