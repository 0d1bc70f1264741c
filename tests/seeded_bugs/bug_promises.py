"""The promises as functions of a server and a clock, each in the world in which the bugs that break it show."""

from properties.promises import administrators, batches, connections, exactness, replicas
from properties.promises import look_ups as lookups


def denial(server, clock):
    exactness.a_denial_writes_nothing(server, clock, "quota")


def denial_by_the_plan(server, clock):
    exactness.a_denial_writes_nothing(server, clock, "plan")


def denial_by_the_stage(server, clock):
    exactness.a_denial_writes_nothing(server, clock, "stage")


def renewal(server, _clock):
    batches.an_expiry_outlasts_the_way_to_full(server)


def at_once(server, clock):
    batches.checks_at_once_are_charged_one_by_one(server, clock)


def keys_at_once(server, clock):
    batches.each_of_many_keys_is_charged(server, clock)


def methods_at_once(server, clock):
    batches.methods_of_one_key_count_for_one_quota(server, clock)


def overtaking(server, clock):
    batches.nobody_is_overtaken(server, clock)


def obeying_at_once(server, clock):
    batches.checks_at_once_obey(server, clock)


def expiries(server, _clock):
    exactness.a_denial_leaves_expiries(server, "quota")


def peek(server, clock):
    exactness.a_peek_writes_nothing(server, clock)


def admission(server, clock):
    exactness.an_admission_charges_every_limit(server, clock)


def step_back(server, clock):
    exactness.a_large_step_back_is_all_that_a_denial_writes(server, clock, "plan")


def retry_after(server, clock):
    exactness.retry_after_is_exact(server, clock, "3/2", 10, 7)


def steady_traffic(server, clock):
    exactness.steady_traffic_loses_nothing(server, clock, "90/60", 333_333, 100)


def quota(server, clock):
    exactness.a_quota_turns_at_the_microsecond(server, clock, *exactness.PERIODS[0])


def period(server, clock):
    exactness.another_period_is_another_count(server, clock)


def flapping(server, clock):
    exactness.a_clock_that_flaps_mints_nothing(server, clock)


def went_back(server, clock):
    exactness.a_clock_that_went_back_locks_nobody_out(server, clock)


def change_of_plan(server, clock):
    exactness.a_change_of_plan_mints_nothing(server, clock)


def metering(server, clock):
    exactness.every_unit_is_metered(server, clock)


def skewed_clocks(server, _clock):
    replicas.skewed_replicas_decide_alike(server, (-600, 0, 600))


def clocks_days_apart(server, _clock):
    replicas.skewed_replicas_decide_alike(server, (-40 * 86_400, 0, 40 * 86_400))


def expiry_of_keys(server, _clock):
    replicas.a_key_expires_by_the_servers_clock(server)


def lost_reply(server, _clock):
    connections.a_check_is_carried_out_once(server, "swallow", "from_url")


def lost_reply_async(server, _clock):
    connections.a_check_is_carried_out_once(server, "reset", "async")


def reset(server, _clock):
    connections.a_check_is_carried_out_once(server, "reset", "retries")


def late_reply(server, _clock):
    connections.a_check_is_carried_out_once(server, "delay", "from_url")


def disabling(server, clock):
    replicas.the_next_check_obeys(server, clock, "disable")


def expiring(server, clock):
    replicas.the_next_check_obeys(server, clock, "expire")


def older_version(server, clock):
    replicas.an_older_version_never_comes_back(server, clock, "plan")


def lost_push(server, clock):
    replicas.a_lost_push_is_caught_up(server, clock)


def another_life(server, clock):
    replicas.another_life_of_the_catalogue_is_noticed(server, clock)


def ceiling(server, _clock):
    administrators.a_ceiling_holds_between_administrators(server)


def shown(server, _clock):
    administrators.what_was_shown_is_what_is_replaced(server)


def usage(server, clock):
    administrators.the_usage_of_a_plan_is_all_that_it_admitted(server, clock)


def new_key_pushed(server, clock):
    lookups.a_new_key_is_known_by_its_push(server, clock)


def new_key_not_pushed(server, clock):
    lookups.a_new_key_is_known_within_a_second(server, clock)


def look_up_overtaken(server, clock):
    lookups.a_look_up_that_a_push_overtook_is_not_kept(server, clock)


def closed_keys(server, clock):
    lookups.what_is_closed_is_never_remembered(server, clock)


def stamp_put_back(server, clock):
    lookups.a_stamp_put_back_opens_nothing(server, clock)


def record_overtaken(server, clock):
    lookups.a_record_that_a_push_overtook_is_not_kept(server, clock)


def newer_catalogue(server, clock):
    lookups.a_newer_catalogue_is_loaded_before_a_refusal(server, clock)


def flood(server, _clock):
    lookups.a_flood_refuses_no_key_that_was_met(server)
