-- unpack_calendar: the quota's window and the day of metering share one number of a plan's state, its calendar. That
-- saves a number in each hash, and one comparison finds that neither has changed.
--
-- Reads   calendar
-- Leaves  window, day
day = calendar % CALENDAR_BASE
window = (calendar - day) / CALENDAR_BASE
