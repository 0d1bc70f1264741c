-- terms: a passage, not a module: what is the same for every key that a request may be about, at this time.
--
-- Reads  now, cost, buckets, and the plan's and the buckets' part of the request
-- Leaves possible: nothing about the request itself is unusual (see lib/usual); today: the day; this_calendar: the
--        quota's window and the day, as states have them; window_end: the day after the window; full, price: levels of
--        the plan's full bucket and of the cost; numbers: of each further bucket seven, P, level, last, rate, full,
--        price, held: P and rate as they are asked for, full and price as for the plan; level and last are for
--        lib/held, held for lib/usual
today = (now - now % DAY_US) / DAY_US
local from
from, window_end = first_day, second_day
if today >= second_day then from, window_end = second_day, third_day end
this_calendar = (from * 64 + window_end - from) * 1048576 + today
full, price = plan_burst * plan_per, cost * plan_per
possible = cost > 0 and (quota < 0 or today >= from and today < window_end and cost <= quota)
  and (plan_per <= 0 or plan_rate > 0 and cost <= plan_burst)
if buckets > 0 then
  numbers = { nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  for i = 1, buckets do
    local burst, rate, new_per = unpack_doubles('<ddd', request, 91 + 24 * i)
    local at = 7 * i
    numbers[at - 6] = new_per
    numbers[at - 3] = rate
    numbers[at - 2] = burst * new_per
    numbers[at - 1] = cost * new_per
    if rate == 0 or cost > burst then possible = false end
  end
end
