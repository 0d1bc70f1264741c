-- alerts: report once per window and key that a share of a quota is used up.
--
-- `request` holds pairs from `alerts_at`: a percentage, and the count from which it is reached. Field `a:<plan>` of the
-- key's hash remembers the last report: window, highest percentage (2 doubles). Reports go to a stream, which consumer
-- groups can read. Where that lies in another slot the hash itself is passed, and keeps each report, until a client has
-- written it to the stream: field `a:<plan>:<window>:<percent>` (3 doubles: used, limit, time).
local function report_crossed(struct, request, alerts_at, before, after, field, window, limit, now, stream)
  local stored, last_window, last_percent
  for at = alerts_at, #request, 16 do
    local percent, count = struct.unpack('<dd', request, at)
    if before < count and after >= count then
      if stored == nil then
        stored = redis.call('HGET', KEYS[1], field)
        if stored and #stored == 16 then last_window, last_percent = struct.unpack('<dd', stored) end
        if last_window ~= window then last_percent = 0 end
      end
      if percent > last_percent then
        last_percent = percent
        -- Everything is counted by now: an alert that cannot be written must not fail the check.
        local reply
        if stream == KEYS[1] then
          reply = string.format('%s:%.0f:%.0f', field, window, percent)
          redis.call('HSET', stream, reply, struct.pack('<ddd', after, limit, now))
        else
          reply = redis.pcall('XADD', stream, 'MAXLEN', '~', '100000', '*', 'key', string.match(KEYS[1], '{(.-)}'),
            'plan', string.sub(field, 3), 'percent', string.format('%.0f', percent),
            'used', string.format('%.0f', after), 'limit', string.format('%.0f', limit),
            'window_day', string.format('%.0f', (window - window % WINDOW_BASE) / WINDOW_BASE),
            'time_us', string.format('%.0f', now))
        end
        if type(reply) == 'string' then redis.call('HSET', KEYS[1], field, struct.pack('<dd', window, percent)) end
      end
    end
  end
end
