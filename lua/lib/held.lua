-- held: a passage, not a module: what further buckets hold, as they are stored: from first_held to last_held.
--
-- Reads  numbers (see lib/terms), and states: of each bucket 24 bytes, or false
-- Leaves level and last in numbers; possible: false if a bucket counts in another P than is asked for, or in
--        numbers that no script wrote; fill_us: of those whose expiry has to be set anew when they are charged, the
--        time in which they fill
local recent = now - now % KEPT_US
for i = first_held, last_held do
  local at, state = 7 * i, states[i]
  local per, level, last = numbers[at - 6], numbers[at - 2], 0 -- no state means full
  if state then per, level, last = unpack_doubles('<ddd', state) end
  local sum = level + last
  if not (per == numbers[at - 6] and sum % 1 == 0 and sum >= 0 and sum < 72057594037927936) then
    possible = false
  end
  numbers[at - 5] = level
  numbers[at - 4] = last
  if last < recent then
    fill_us = fill_us or {}
    fill_us[i] = numbers[at - 2] / numbers[at - 3]
  end
end
