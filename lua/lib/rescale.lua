-- rescale: floor(level * new_per / old_per), for a bucket whose plan got another `per`.
--
-- The plain product could pass 2^53, so whole tokens are converted at once and the rest bit by bit (old_per is below
-- 2^53 / 3). Rounded down: a change of plan mints nothing.
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
