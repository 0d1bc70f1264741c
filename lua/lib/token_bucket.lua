-- token_bucket: capacity `burst`, filled at `rate` tokens per `per` microseconds, in whole numbers below 2^53.
--
-- State: per, level, last_us. `level` counts units of 1/per token, so that a microsecond adds exactly `rate` units and
-- nothing is ever rounded. per = 0 stands for no state: a full bucket.
--   refill     level = min(burst * per, level + (now - last) * rate)
--   admit      cost * per <= level
--   wait       ceil((cost * per - level) / rate) microseconds; for ever if cost > burst or rate = 0
-- The maker of a limit guarantees max(burst, 3) * per + rate < 2^53.

-- The lowest level that a bucket is charged to: minus its burst, and such that at most 2^53 units are missing to full.
local function lowest_level(full) return math.max(-full, full - 9007199254740992) end

-- The bucket as it stands at `now`: level, last_us, and whether a step back of the clock re-anchored it.
local function bucket_at(old_per, level, last, burst, rate, per, now)
  local full = burst * per
  if old_per == 0 then return full, now, false end
  if old_per ~= per then
    -- The plan got another `per`: floor(level * per / old_per), rounded down. The plain product could pass 2^53, so
    -- whole tokens are converted at once and the rest bit by bit (old_per is below 2^53 / 3).
    local tokens = math.floor(level / old_per)
    if tokens >= burst then
      level = full
    else
      local rest, quotient, remainder, bit = level - tokens * old_per, 0, 0, 1
      while bit * 2 <= per do bit = bit * 2 end
      while bit >= 1 do
        quotient, remainder = quotient * 2, remainder * 2
        if per % (bit * 2) >= bit then remainder = remainder + rest end
        local carry = math.floor(remainder / old_per)
        quotient, remainder = quotient + carry, remainder - carry * old_per
        bit = bit / 2
      end
      level = tokens * per + quotient
    end
    level = math.max(lowest_level(full), level)
  end
  local elapsed = now - last
  if elapsed >= 0 then
    -- Where the product is too large to be exact, it is far above what fills the bucket.
    if elapsed * rate >= full - level then return full, now, false end
    return level + elapsed * rate, now, false
  end
  if level > full then level = full end
  -- A small step back is tolerated: the state keeps the later time. A larger one is a new time, and the state is
  -- anchored to it.
  -- @inline inline/clock_tolerance
  if elapsed < -CLOCK_TOLERANCE_US then return level, now, true end
  return level, last, false
end
