-- alerts: tell once per window and key that a share of a quota is used up.
--
-- `request` holds pairs at `at`: a percentage, and the count from which it is reached. Remembered in field `a:<plan>`
-- of the key's hash: window, highest percentage told (2 doubles). Told on a stream that consumer groups can read.
local function tell_crossed(struct, request, at, before, after, field, window, limit, now, stream)
  local told, told_window, told_percent = nil, 0, 0
  for pair = at, #request, 16 do
    local percent, count = struct.unpack('<dd', request, pair)
    if before < count and after >= count then
      if not told then
        told = redis.call('HGET', KEYS[1], field)
        if told and #told == 16 then told_window, told_percent = struct.unpack('<dd', told) end
        if told_window ~= window then told_percent = 0 end
        told = true
      end
      if percent > told_percent then
        told_percent = percent
        -- Everything is counted by now: an alert that cannot be told must not fail the check.
        local reply = redis.pcall('XADD', stream, 'MAXLEN', '~', '100000', '*', 'key', string.match(KEYS[1], '{(.-)}'),
          'plan', string.sub(field, 3), 'percent', string.format('%.0f', percent),
          'used', string.format('%.0f', after), 'limit', string.format('%.0f', limit),
          'window_day', string.format('%.0f', (window - window % 64) / 64), 'time_us', string.format('%.0f', now))
        if type(reply) == 'string' then redis.call('HSET', KEYS[1], field, struct.pack('<dd', window, percent)) end
      end
    end
  end
end
