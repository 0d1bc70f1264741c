-- lease_notes: what a key's hash notes of the leases that are out, so that one whose reply was lost can be returned.
--
-- Field `l:<id>` holds four doubles: units, time, window (-1: no quota) and day of the charge. 0 units: it was returned
-- before it was granted, and the request for it is to get nothing if it comes after all. A note counts for
-- NOTE_LIFE_US, in both directions, as the clock may be set back.
local NOTE_LIFE_US, MAX_NOTES, NOTE_SIZE, NO_LEASE = 60000000, 256, 32, -6

-- The fields of notes that do not count any more; nil if there is no room for another note.
local function outdated_notes(key, now)
  local outdated, notes = {}, 0
  local names_and_values = redis.call('HGETALL', key)
  for i = 1, #names_and_values, 2 do
    local name, note = names_and_values[i], names_and_values[i + 1]
    if string.sub(name, 1, 2) == 'l:' then
      local _, noted_us = unpack_doubles('<dd', #note == NOTE_SIZE and note or string.rep('\0', NOTE_SIZE))
      if math.abs(now - noted_us) < NOTE_LIFE_US then
        notes = notes + 1
      else
        outdated[#outdated + 1] = name
      end
    end
  end
  if notes < MAX_NOTES then return outdated end
end
