"""Waiting for work between two passes."""

import itertools
import time

from dbbbatch.passes.linger import Watch, wait_for_work

FAR = float("inf")


def test_work_that_is_there_is_not_waited_for():
    assert wait_for_work(lambda: True, [], 60, FAR, lambda: False)


def test_the_wait_ends_when_the_time_is_up():
    assert not wait_for_work(lambda: False, [], 0.01, time.monotonic() + 0.05, lambda: False)


def test_the_wait_ends_when_the_pass_is_to_stop():
    stops = itertools.chain([False], itertools.repeat(True))
    assert not wait_for_work(lambda: False, [], 60, FAR, lambda: next(stops))


def test_it_polls_although_nothing_tells_of_a_change():
    looks = itertools.chain([False, False], itertools.repeat(True))
    assert wait_for_work(lambda: next(looks), [], 0.01, FAR, lambda: False)


def test_a_change_in_a_watched_directory_shortens_the_wait(tmp_path):
    (tmp_path / "2026").mkdir()
    looks = []

    def due():
        if looks:
            return True
        looks.append(1)
        (tmp_path / "2026" / "a.fits").write_bytes(b"x")
        return False

    # Without inotify this would wait for an hour.
    assert wait_for_work(due, [str(tmp_path)], 3600, FAR, lambda: False)


def test_directories_that_are_not_there_are_only_polled(tmp_path):
    with Watch([str(tmp_path / "none")]) as watch:
        watch.wait(0.01)
