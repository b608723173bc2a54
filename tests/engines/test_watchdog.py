"""When the absence of progress is a wedge. Time is an argument here."""

from __future__ import annotations

from skulk.engines.watchdog import CHECK_SECONDS, Activity, Patience, Pulse

DEADLINES = {Activity.STEPPING: 10.0, Activity.WARMING: 20.0}


def looks(patience, activity, progress, seconds):
    """Look every CHECK_SECONDS; the first message, and after how many seconds."""
    for n in range(int(seconds / CHECK_SECONDS)):
        message = patience.look(activity, progress, CHECK_SECONDS)
        if message:
            return message, n * CHECK_SECONDS
    return None, seconds


def test_no_progress_for_the_deadline_is_a_wedge():
    message, after = looks(Patience(DEADLINES), Activity.STEPPING, 1, 60)
    assert message == "no progress for 10 s while stepping"
    assert after == 10.0


def test_each_activity_has_its_own_deadline():
    assert looks(Patience(DEADLINES), Activity.WARMING, 1, 60)[1] == 20.0
    assert looks(Patience(DEADLINES), Activity.IDLE, 1, 600)[0] is None
    assert looks(Patience(DEADLINES), Activity.LOADING, 1, 600)[0] is None


def test_any_progress_starts_the_count_again():
    patience = Patience(DEADLINES)
    for progress in range(20):
        assert looks(patience, Activity.STEPPING, progress, 9)[0] is None
    assert looks(patience, Activity.WARMING, 19, 9)[0] is None


def test_a_machine_that_slept_did_not_hang():
    patience = Patience(DEADLINES)
    assert patience.look(Activity.STEPPING, 1, CHECK_SECONDS) is None
    assert patience.look(Activity.STEPPING, 1, 8 * 3600.0) is None


def test_every_beat_is_progress_even_in_the_same_activity():
    pulse = Pulse()
    before = pulse.progress
    pulse.beat(Activity.STEPPING)
    pulse.beat(Activity.STEPPING)
    assert pulse.progress == before + 2
