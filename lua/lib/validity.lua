-- validity: whether the numbers of a state are such as a script can have written: whole, and small enough to be exact.
--
-- Comparisons say what is valid: one with NaN is false. A number that is not whole shows in the sum.
local function is_bucket(per, level, last)
  return (per + level + last) % 1 == 0 and per > 0 and per <= MAX_INTEGER and level >= -MAX_INTEGER
    and level <= MAX_INTEGER and last >= -MAX_INTEGER and last <= MAX_INTEGER
end

-- The state of a key under a plan: seven numbers, of which few can be below zero.
local function is_plan_state(per, level, last, calendar, used, granted, day_used)
  return (per + level + last + calendar + used + granted + day_used) % 1 == 0 and per >= 0 and per <= MAX_INTEGER
    and level >= -MAX_INTEGER and level <= MAX_INTEGER and last >= -MAX_INTEGER and last <= MAX_INTEGER
    and calendar >= 0 and calendar <= MAX_INTEGER and used >= 0 and used <= MAX_INTEGER
    and granted >= -MAX_INTEGER and granted <= MAX_INTEGER and day_used >= 0 and day_used <= MAX_INTEGER
end

local function are_integers(...)
  for _, number in ipairs({ ... }) do
    if not (number % 1 == 0 and number >= -MAX_INTEGER and number <= MAX_INTEGER) then return false end
  end
  return true
end
