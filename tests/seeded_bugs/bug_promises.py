"""The promises as functions of a server and a clock, each with arguments under which the bugs show that break it."""

from properties.promises import administrators, batches, connections, exactness, replicas
from properties.promises import look_ups as lookups


def on_clock(promise, *arguments):
    """A promise that takes the server and the clock first."""
    return lambda server, clock: promise(server, clock, *arguments)


def on_server(promise, *arguments):
    """A promise that goes by the server's own clock."""
    return lambda server, _clock: promise(server, *arguments)


denial = on_clock(exactness.a_denial_writes_nothing, "quota")
denial_by_the_plan = on_clock(exactness.a_denial_writes_nothing, "plan")
denial_by_the_stage = on_clock(exactness.a_denial_writes_nothing, "stage")
renewal = on_server(batches.an_expiry_outlasts_the_way_to_full)
at_once = on_clock(batches.checks_at_once_are_charged_one_by_one)
keys_at_once = on_clock(batches.each_of_many_keys_is_charged)
methods_at_once = on_clock(batches.methods_of_one_key_count_for_one_quota)
overtaking = on_clock(batches.nobody_is_overtaken)
obeying_at_once = on_clock(batches.checks_at_once_obey)
expiries = on_server(exactness.a_denial_leaves_expiries, "quota")
peek = on_clock(exactness.a_peek_writes_nothing)
admission = on_clock(exactness.an_admission_charges_every_limit)
step_back = on_clock(exactness.a_large_step_back_is_all_that_a_denial_writes, "plan")
retry_after = on_clock(exactness.retry_after_is_exact, "3/2", 10, 7)
steady_traffic = on_clock(exactness.steady_traffic_loses_nothing, "90/60", 333_333, 100)
quota = on_clock(exactness.a_quota_turns_at_the_microsecond, *exactness.PERIODS[0])
period = on_clock(exactness.another_period_is_another_count)
flapping = on_clock(exactness.a_clock_that_flaps_mints_nothing)
went_back = on_clock(exactness.a_clock_that_went_back_locks_nobody_out)
change_of_plan = on_clock(exactness.a_change_of_plan_mints_nothing)
metering = on_clock(exactness.every_unit_is_metered)
skewed_clocks = on_server(replicas.skewed_replicas_decide_alike, (-600, 0, 600))
clocks_days_apart = on_server(replicas.skewed_replicas_decide_alike, (-40 * 86_400, 0, 40 * 86_400))
expiry_of_keys = on_server(replicas.a_key_expires_by_the_servers_clock)
lost_reply = on_server(connections.a_check_is_carried_out_once, "swallow", "from_url")
lost_reply_async = on_server(connections.a_check_is_carried_out_once, "reset", "async")
reset = on_server(connections.a_check_is_carried_out_once, "reset", "retries")
late_reply = on_server(connections.a_check_is_carried_out_once, "delay", "from_url")
disabling = on_clock(replicas.the_next_check_obeys, "disable")
expiring = on_clock(replicas.the_next_check_obeys, "expire")
older_version = on_clock(replicas.an_older_version_never_comes_back, "plan")
lost_push = on_clock(replicas.a_lost_push_is_caught_up)
another_life = on_clock(replicas.another_life_of_the_catalogue_is_noticed)
ceiling = on_server(administrators.a_ceiling_holds_between_administrators)
shown = on_server(administrators.what_was_shown_is_what_is_replaced)
usage = on_clock(administrators.the_usage_of_a_plan_is_all_that_it_admitted)
new_key_pushed = on_clock(lookups.a_new_key_is_known_by_its_push)
new_key_not_pushed = on_clock(lookups.a_new_key_is_known_within_a_second)
look_up_overtaken = on_clock(lookups.a_look_up_that_a_push_overtook_is_not_kept)
closed_keys = on_clock(lookups.what_is_closed_is_never_remembered)
stamp_put_back = on_clock(lookups.a_stamp_put_back_opens_nothing)
record_overtaken = on_clock(lookups.a_record_that_a_push_overtook_is_not_kept)
newer_catalogue = on_clock(lookups.a_newer_catalogue_is_loaded_before_a_refusal)
flood = on_server(lookups.a_flood_refuses_no_key_that_was_met)
