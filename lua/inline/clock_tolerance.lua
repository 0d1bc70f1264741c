-- clock_tolerance: how far the clock may go back without a state being anchored anew. Clocks of replicas of a server
-- differ, and NTP corrects them.
local CLOCK_TOLERANCE_US = 2000000
