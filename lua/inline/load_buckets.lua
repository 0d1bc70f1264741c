-- load_buckets: what the further buckets from first_bucket to last_bucket hold, as they are stored.
--
-- Reads   now, first_bucket, last_bucket
-- Reads   states      of each bucket 24 bytes, or false
-- Reads   numbers     sets level and last in it (see inline/request_terms)
-- Leaves  eligible    false if a bucket counts in another per than the request, or in numbers that no script wrote
-- Leaves  fill_us     the time in which a bucket fills, for those whose expiry has to be renewed when they are charged
local step_start = now - now % EXPIRY_STEP_US
for i = first_bucket, last_bucket do
  local at, state = 7 * i, states[i]
  local per, level, last = numbers[at - 6], numbers[at - 2], 0 -- no state means full
  if state then per, level, last = unpack_doubles('<ddd', state) end
  local sum = level + last
  if not (per == numbers[at - 6] and sum % 1 == 0 and sum >= 0 and sum < MAX_SUM) then eligible = false end
  numbers[at - 5] = level
  numbers[at - 4] = last
  if last < step_start then
    fill_us = fill_us or {}
    fill_us[i] = numbers[at - 2] / numbers[at - 3]
  end
end
