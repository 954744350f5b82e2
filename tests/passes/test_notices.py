"""What is said on stderr: once when a trouble begins, once when it ends."""

import errno
import os

import pytest

from dbbbatch.errors import LockHeld
from dbbbatch.files.lock import Lock
from dbbbatch.passes.notices import Notices


@pytest.fixture
def a_pass(tmp_path, capsys):
    """Make a pass with the given troubles and give what it said."""

    def a_pass(*troubles, always=False, **keyed):
        notices = Notices(tmp_path, "handoff.a", always)
        for trouble in troubles:
            notices.warn(trouble)
        for key, message in keyed.items():
            notices.warn(message, key)
        notices.end_pass()
        return capsys.readouterr().err

    return a_pass


@pytest.mark.promise
def test_nothing_is_said_when_all_is_well(a_pass):
    assert a_pass() == ""


@pytest.mark.promise
def test_a_trouble_is_said_once_while_it_lasts(a_pass):
    assert a_pass("disk full") == "handoff.a: disk full\n"
    assert a_pass("disk full") == ""


@pytest.mark.promise
def test_the_end_of_a_trouble_is_said_once(a_pass):
    a_pass("disk full")
    assert a_pass() == "handoff.a: is over: disk full\n"
    assert a_pass() == ""


def test_a_trouble_whose_numbers_change_is_the_same_trouble(a_pass):
    assert a_pass(failed="3 files failed")
    assert a_pass(failed="4 files failed") == ""


def test_a_trouble_is_over_in_the_words_in_which_it_was_said(a_pass):
    assert a_pass(away="no answer") == "handoff.a: no answer\n"
    assert a_pass(away="no answer: 3 lines of output") == ""
    assert a_pass() == "handoff.a: is over: no answer\n"


@pytest.fixture
def files_wait(tmp_path, capsys):
    """Make a pass after which so many files wait for a person, and give what it said."""

    def files_wait(count):
        notices = Notices(tmp_path, "handoff.a")
        if count:
            notices.warn(f"{count} files wait", "stuck", level=count)
        notices.end_pass()
        return capsys.readouterr().err

    return files_wait


def test_a_trouble_is_said_again_when_it_has_doubled(files_wait):
    assert files_wait(1) == "handoff.a: 1 files wait\n"
    assert files_wait(2) == "handoff.a: 2 files wait\n"
    assert files_wait(2) == files_wait(3) == ""
    assert files_wait(4) == "handoff.a: 4 files wait\n"


def test_a_trouble_that_shrinks_and_grows_back_is_said_once(files_wait):
    # As after an older database was restored.
    assert files_wait(4) == "handoff.a: 4 files wait\n"
    assert files_wait(1) == files_wait(4) == files_wait(5) == ""
    assert files_wait(0) == "handoff.a: is over: 4 files wait\n"


def test_a_second_trouble_is_said_though_the_first_goes_on(a_pass):
    a_pass("disk full")
    assert a_pass("disk full", "no route") == "handoff.a: no route\n"


def test_with_v_a_trouble_is_said_every_time(a_pass):
    a_pass("disk full", always=True)
    assert a_pass("disk full", always=True) == "handoff.a: disk full\n"


def test_a_pass_that_did_not_look_leaves_what_was_said(a_pass, tmp_path, capsys):
    a_pass("disk full")
    notices = Notices(tmp_path, "handoff.a")
    notices.unchanged()
    notices.end_pass()
    assert capsys.readouterr().err == ""
    assert a_pass() == "handoff.a: is over: disk full\n"


def test_a_memory_that_was_cut_short_is_no_trouble(a_pass, tmp_path):
    a_pass("disk full")
    (tmp_path / "said" / "handoff.a.json").write_text('{"dis')
    assert a_pass("disk full") == "handoff.a: disk full\n"


@pytest.mark.parametrize("content", ['{"a": ["x", 1e400]}', "[" * 100_000])
def test_a_memory_that_makes_no_sense_is_no_trouble(a_pass, tmp_path, content):
    a_pass("disk full")
    (tmp_path / "said" / "handoff.a.json").write_text(content)
    assert a_pass("disk full") == "handoff.a: disk full\n"


def test_a_pass_that_broke_off_says_of_no_trouble_that_it_is_over(a_pass, tmp_path, capsys):
    a_pass("disk full")
    notices = Notices(tmp_path, "handoff.a")
    notices.warn("no route")
    notices.incomplete()
    notices.end_pass()
    assert capsys.readouterr().err == "handoff.a: no route\n"
    assert a_pass("no route") == "handoff.a: is over: disk full\n"


def test_the_same_words_are_one_trouble_whatever_their_key(a_pass):
    assert a_pass(one="disk full", two="disk full") == "handoff.a: disk full\n"
    assert a_pass(three="disk full") == ""
    assert a_pass() == "handoff.a: is over: disk full\n"


def test_what_is_over_is_told_in_the_words_in_which_it_began(a_pass):
    assert a_pass(away="away: refused") == "handoff.a: away: refused\n"
    assert a_pass(away="away: it starts") == ""
    assert a_pass() == "handoff.a: is over: away: refused\n"


# ---- a full disk -------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path, monkeypatch):
    """Return a function after which nothing takes up more of the disk of the state directory."""
    opened = os.open

    def fill():
        def refuse(path, flags, *arguments, **more):
            if flags & os.O_CREAT and not os.path.exists(path):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return opened(path, flags, *arguments, **more)

        monkeypatch.setattr(os, "open", refuse)

    return fill


@pytest.mark.promise
def test_a_trouble_is_said_once_though_the_disk_is_full(a_pass, full, monkeypatch):
    a_pass()
    full()
    assert a_pass("disk full") == "handoff.a: disk full\n"
    assert a_pass("disk full") == ""
    assert a_pass() == "handoff.a: is over: disk full\n"
    assert a_pass() == ""


def test_many_troubles_on_a_full_disk_are_remembered_as_far_as_there_is_room(a_pass, full):
    a_pass()
    full()
    troubles = [f"{n} " + "x" * 300 for n in range(40)]
    assert a_pass(*troubles).count("\n") == 41  # and that not all is remembered
    again = a_pass(*troubles)
    assert "handoff.a: 0 x" not in again
    assert "handoff.a: 39 x" in again
    assert "is over" not in again


def test_a_full_disk_from_the_first_pass_on_is_no_more_than_repetition(a_pass, full):
    full()
    assert a_pass() == ""
    assert "handoff.a: disk full" in a_pass("disk full")


def test_passes_of_one_component_say_what_they_have_to_say_in_turn(tmp_path, monkeypatch):
    said = []

    def say(self, message):
        with pytest.raises(LockHeld):
            Lock(tmp_path / "said", "handoff.a").acquire()
        said.append(message)

    monkeypatch.setattr(Notices, "_say", say)
    notices = Notices(tmp_path, "handoff.a")
    notices.warn("the endpoint is away")
    notices.end_pass()
    notices.end_pass()
    assert said == ["the endpoint is away", "is over: the endpoint is away"]
    Lock(tmp_path / "said", "handoff.a").acquire()
