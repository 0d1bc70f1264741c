-- flags: what a request of check.lua and check_many.lua has or wants; they add up.
local HAS_KEY, NOTHING_NEWER, HAS_SHADOW, HAS_ALERTS, SHADOW_HAS_BUCKET, RESERVED, PEEK = 1, 2, 4, 8, 16, 32, 64
