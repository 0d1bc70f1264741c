-- request_terms: what is the same, at this time, for every key that a request may be about.
--
-- Reads   now, cost, request, buckets, quota, first_day, second_day, third_day, plan_burst, plan_rate, plan_per
-- Leaves  today, window_end     the day, and the first day after the quota's window
-- Leaves  current_calendar      the calendar of a state in this window and on this day
-- Leaves  full, price           levels of the plan's full bucket, and of the cost
-- Leaves  eligible              whether the fast path can judge the request itself
-- Leaves  numbers               of each further bucket seven: per, level, last, rate, full, price, refilled; per to
--                               price as the request says; level and last are for inline/load_buckets, refilled for
--                               inline/fast_path
today = (now - now % DAY_US) / DAY_US
local window_start = first_day
window_end = second_day
if today >= second_day then window_start, window_end = second_day, third_day end
current_calendar = (window_start * WINDOW_BASE + window_end - window_start) * CALENDAR_BASE + today
full = plan_burst * plan_per
price = cost * plan_per
eligible = cost > 0 and (quota < 0 or today >= window_start and today < window_end and cost <= quota)
  and (plan_per <= 0 or plan_rate > 0 and cost <= plan_burst)
if buckets > 0 then
  numbers = { nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  for i = 1, buckets do
    local burst, rate, per = unpack_doubles('<ddd', request, HEAD_SIZE + BUCKET_SIZE * (i - 1) + 1)
    local at = 7 * i
    numbers[at - 6] = per
    numbers[at - 3] = rate
    numbers[at - 2] = burst * per
    numbers[at - 1] = cost * per
    if rate == 0 or cost > burst then eligible = false end
  end
end
