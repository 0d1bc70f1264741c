-- sound: whether numbers of a state are such as a script can have written: whole, and where sums of them stay exact.
--
-- A comparison with a number that is none (NaN) is false.
local function are_sound(...)
  for _, number in ipairs({ ... }) do
    if not (number % 1 == 0 and number >= -9007199254740991 and number <= 9007199254740991) then return false end
  end
  return true
end

-- The state of a key under a plan: seven numbers, of which few can be below zero.
local function is_plan_state(per, level, last, calendar, used, granted, day_used)
  return are_sound(per, level, last, calendar, used, granted, day_used)
    and per >= 0 and calendar >= 0 and used >= 0 and day_used >= 0
end
