"""Lines of progress: how far, how fast, how long."""

import pytest

from scm.base import progress
from scm.base.progress import Progress, clock


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.99, "0:59"), (60, "1:00"), (3725.5, "62:05")])
def test_a_clock_counts_minutes_and_seconds(seconds, shown):
    assert clock(seconds) == shown


def test_the_rate_counts_only_what_this_run_has_done(monkeypatch):
    now, lines = [100.0], list[str]()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    speed = Progress(1000, lines.append, "encoded")
    speed.skip(400)
    for seconds in (5, 20):
        now[0] = 100.0 + seconds
        speed.add(50)
    assert lines == [" 50%  500 of 1,000 images encoded, 5.0/s, ETA 1:40"]
