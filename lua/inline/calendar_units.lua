-- calendar_units: what days and windows are counted and packed in. A window of a quota is first day * WINDOW_BASE +
-- number of days; a calendar is window * CALENDAR_BASE + day of metering.
local DAY_US, WINDOW_BASE, CALENDAR_BASE = 86400000000, 64, 1048576
