-- decision_statuses: how replies that decide a request start.
local DENIED, ADMITTED, ADMITTED_DAY_OVER, WOULD_ADMIT = 0, 1, 2, 3
