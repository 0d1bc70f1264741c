-- constants: numbers that several scripts share, each named once. A local costs one instruction in each call, and more
-- where a function captures it: what functions of lib/ need alone, or again, is a passage.

-- @inline inline/calendar_units
local EXPIRY_STEP_US = 30000000 -- the expiry of a shared bucket is renewed at most once in this time
local MAX_INTEGER = 9007199254740991 -- 2^53 - 1: larger integers are not exact
local MAX_SUM = 72057594037927936 -- 2^56: no sum of a valid state's numbers comes near

-- Sizes in bytes; positions count from 1.
local HEAD_SIZE = 114 -- of a request: eleven doubles, then the version token
local VERSION_TOKEN_AT, VERSION_TOKEN_SIZE = 89, 26
local PLAN_STATE_SIZE = 56
local BUCKET_SIZE = 24
