-- sound: whether numbers of a state are such as a script can have written: whole, and where sums of them stay exact.
--
-- Comparisons say what is right: one with a number that is none (NaN) is false. What is not whole shows in the sum.
local MOST = 9007199254740991 -- beyond, numbers are not whole any more

local function is_bucket(per, level, last)
  return (per + level + last) % 1 == 0 and per > 0 and per <= MOST and level >= -MOST and level <= MOST
    and last >= -MOST and last <= MOST
end

-- The state of a key under a plan: seven numbers, of which few can be below zero.
local function is_plan_state(per, level, last, calendar, used, granted, day_used)
  return (per + level + last + calendar + used + granted + day_used) % 1 == 0 and per >= 0 and per <= MOST
    and level >= -MOST and level <= MOST and last >= -MOST and last <= MOST and calendar >= 0 and calendar <= MOST
    and used >= 0 and used <= MOST and granted >= -MOST and granted <= MOST and day_used >= 0 and day_used <= MOST
end

local function are_sound(...)
  for _, number in ipairs({ ... }) do
    if not (number % 1 == 0 and number >= -MOST and number <= MOST) then return false end
  end
  return true
end
