-- closed_day_size: the bytes of a day of metering that is over: units used, and what was left of the quota.
local CLOSED_DAY_SIZE = 16
