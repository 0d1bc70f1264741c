-- token_bucket: capacity `burst`, filled at `rate` tokens per `per` microseconds, in whole numbers below 2^53.
--
-- State, 24 bytes: per, level, last_us (3 x u64). `level` counts in units of 1/per token, so that a microsecond
-- adds exactly `rate` units and nothing is ever rounded. No state means a full bucket.
--   refill     level = min(burst * per, level + (now - last) * rate)
--   admit      cost * per <= level
--   wait       ceil((cost * per - level) / rate) microseconds
-- Whoever makes a limit guarantees max(burst, 3) * per + rate < 2^53; divisions of such numbers floor exactly.

-- floor(level * new_per / old_per), for a bucket whose plan got another `per`. The plain product could pass 2^53,
-- so whole tokens are converted at once and the rest bit by bit. Rounded down: a change of plan mints nothing.
local function rescaled(level, old_per, new_per, burst)
  local tokens = math.floor(level / old_per)
  if tokens >= burst then return burst * new_per end
  local rest, quotient, remainder = level - tokens * old_per, 0, 0
  local bit = 1
  while bit * 2 <= new_per do bit = bit * 2 end
  while bit >= 1 do
    quotient, remainder = quotient * 2, remainder * 2
    if new_per % (bit * 2) >= bit then remainder = remainder + rest end
    local carry = math.floor(remainder / old_per)
    quotient, remainder = quotient + carry, remainder - carry * old_per
    bit = bit / 2
  end
  return tokens * new_per + quotient
end

-- The bucket as it stands at `now`: level, last_us, and whether it had to be re-anchored.
local function bucket_at(state, burst, rate, per, now)
  local full = burst * per
  if not state then return full, now, false end
  local old_per, level, last = struct.unpack('<I8I8I8', state)
  if old_per ~= per then level = rescaled(level, old_per, per, burst) end
  if level > full then level = full end
  local elapsed = now - last
  if elapsed < -TOLERANCE_US then return level, now, true end
  if elapsed < 0 then return level, last, false end
  if rate > 0 then
    -- More time than it takes to fill adds nothing, and capping it keeps the product small.
    elapsed = math.min(elapsed, math.floor((full - level) / rate) + 1)
    level = math.min(full, level + elapsed * rate)
  end
  return level, now, false
end
