"""Membership: tokens and the age of readings, through restarts, bursts and clocks that differ."""

from __future__ import annotations

from skulk.core.domain import BootId, Life, NodeName, Presence
from skulk.core.wire.planes_members import (
    FORGET_SECONDS,
    FRESH_INTERVALS,
    KINDS_MAX,
    LIFE_MAX,
    PULSE,
    READING_SECONDS,
    Membership,
)

ME = Life(NodeName("me"), BootId("m"), 1)
B = NodeName("b")
B1 = Life(B, BootId("b1"), 1)
B2 = Life(B, BootId("b2"), 2)
PATIENCE = FRESH_INTERVALS * READING_SECONDS


def presence(members: Membership, now: float) -> Presence:
    return members.peers(now)[B].presence


def pulse(members: Membership, seq: int, taken_at: float, now: float, life: Life = B1) -> bool:
    return members.reading(life, PULSE, seq, taken_at, {}, now)


def test_a_connected_node_whose_readings_stop_is_suspect():
    members = Membership(ME)
    assert members.token(B1, True, 0.0)
    assert presence(members, PATIENCE) is Presence.LIVE
    assert presence(members, PATIENCE + 0.1) is Presence.SUSPECT
    assert pulse(members, 1, 100.0, 5.0)
    assert presence(members, 5.0 + PATIENCE) is Presence.LIVE
    assert presence(members, 5.1 + PATIENCE) is Presence.SUSPECT


def test_a_burst_of_readings_that_waited_does_not_look_fresh():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    for second in range(10):
        pulse(members, second, 100.0 + second, float(second))
    pulse(members, 11, 111.0, 41.0)  # 30 s late
    assert members.peers(41.0)[B].age_seconds == 30.0
    assert presence(members, 41.0) is Presence.SUSPECT


def test_clocks_that_drift_apart_do_no_harm():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    for second in range(200_000):
        pulse(members, second, second * 0.9999, float(second))
    age = members.peers(200_000.0)[B].age_seconds
    assert age is not None
    assert age < PATIENCE


def test_after_a_long_sleep_of_its_machine_it_is_fresh_with_its_first_reading():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    pulse(members, 1, 100.0, 0.0)
    members.token(B1, False, 2.0)
    members.token(B1, True, 500.0)
    pulse(members, 2, 101.0, 501.0)
    assert presence(members, 501.5) is Presence.LIVE


def test_a_lost_node_is_lost_for_so_long_and_forgotten_at_last():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    assert members.token(B1, False, 10.0)
    assert not members.token(B1, False, 11.0)
    peer = members.peers(13.0)[B]
    assert (peer.presence, peer.absent_seconds) == (Presence.LOST, 3.0)
    assert members.life_of(B) is None
    assert members.peers(10.0 + FORGET_SECONDS + 1) == {}


def test_the_token_of_a_former_life_says_nothing():
    members = Membership(ME)
    members.token(B2, True, 0.0)
    assert not members.token(B1, True, 1.0)
    assert not members.token(B1, False, 2.0)
    assert members.life_of(B) == B2
    assert not pulse(members, 1, 0.0, 3.0, B1)
    assert not members.goodbye(B1)
    assert presence(members, 3.0) is Presence.LIVE


def test_a_new_life_starts_without_the_old_ones_readings():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    members.reading(B1, "memory", 9, 0.0, {"freeBytes": 1}, 0.0)
    members.token(B2, True, 1.0)
    assert members.readings(1.0) == {}
    assert members.reading(B2, "memory", 1, 0.0, {"freeBytes": None}, 1.0)
    assert members.readings(1.0)[B]["memory"].values == {"freeBytes": None}


def test_old_and_repeated_readings_change_nothing():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    assert members.reading(B1, "memory", 2, 2.0, {"x": 2}, 2.0)
    assert not members.reading(B1, "memory", 2, 2.0, {"x": 0}, 2.0)
    assert not members.reading(B1, "memory", 1, 1.0, {"x": 1}, 3.0)
    assert members.readings(3.0)[B]["memory"].values == {"x": 2}
    assert members.readings(3.0)[B]["memory"].age_seconds == 1.0


def test_a_broken_sender_cannot_fill_the_memory():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    for number in range(KINDS_MAX + 10):
        members.reading(B1, f"kind{number}", 1, 0.0, {}, 0.0)
    assert len(members.readings(0.0)[B]) == KINDS_MAX


def test_a_goodbye_ends_the_life_even_before_its_token_goes():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    assert members.goodbye(B1)
    assert presence(members, 0.0) is Presence.LEFT
    members.token(B1, False, 1.0)
    assert presence(members, 1.0) is Presence.LEFT
    members.token(B2, True, 2.0)
    assert presence(members, 2.0) is Presence.LIVE


def test_another_daemon_under_my_name_is_a_rival():
    members = Membership(ME)
    twin = Life(ME.node, BootId("other"), 1)
    members.token(ME, True, 0.0)
    members.token(twin, True, 0.0)
    assert members.rivals() == ("other",)
    assert members.life_of(ME.node) == ME
    members.token(twin, False, 1.0)
    assert members.rivals() == ()
    assert members.superseded() == 0


def test_a_later_rival_is_remembered_after_its_end_unless_its_number_was_made_up():
    members = Membership(ME)
    members.token(Life(ME.node, BootId("x"), LIFE_MAX + 1), True, 0.0)
    assert members.superseded() == 0
    later = Life(ME.node, BootId("other"), 5)
    members.token(later, True, 0.0)
    members.token(later, False, 1.0)
    members.reset(2.0)
    assert members.rivals() == ()
    assert members.superseded() == 5


def test_a_connection_made_anew_forgets_tokens_that_are_not_reported_again():
    members = Membership(ME)
    members.token(B1, True, 0.0)
    members.reset(5.0)
    assert presence(members, 5.0) is Presence.LOST
    members.token(B1, True, 5.5)
    assert presence(members, 5.5) is Presence.LIVE
