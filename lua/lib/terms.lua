-- terms: a passage, not a module: what is the same for every key that a request may be about, at this time.
--
-- Reads  now, cost, and the plan's part of the request
-- Leaves possible: nothing about the request itself is unusual (see lib/usual); today: the day; this_window, window_end:
--        the quota's window as states have it, and the day after it; full, price: levels of the plan's full bucket and of
--        the cost
today = (now - now % DAY_US) / DAY_US
local from
from, window_end = first_day, second_day
if today >= second_day then from, window_end = second_day, third_day end
this_window, full, price = from * 64 + window_end - from, plan_burst * plan_per, cost * plan_per
possible = cost > 0 and (quota < 0 or today >= from and today < window_end and cost <= quota)
  and (plan_per <= 0 or plan_rate > 0 and cost <= plan_burst)
