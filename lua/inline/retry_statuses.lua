-- retry_statuses: how replies start that decide nothing, because the caller has to look again first.
local KEY_CHANGED, CATALOG_BEHIND, WINDOWS_PAST, KEY_EXPIRED = -1, -2, -3, -4
