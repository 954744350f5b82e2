"""How far a pass is, and what it did, in the words that an operator sees."""

import os
import pty
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest

from dbbbatch.passes import progress
from tests.support.scripts import TOP


def step(**values):
    return progress.Progress("storing files", 0.0, **values)


def test_the_summary_names_files_bytes_time_and_rate():
    counts = {"delivered": 12, "failed": 1, "held": 12, "vanished": 0}
    line = progress.what_it_did(counts, "delivered", 3_116_000_000, 41.2)
    assert line == "12 files delivered, 3.1 GB in 41 s, 75.6 MB/s; 1 failed"


def test_the_summary_of_one_file_has_no_plural():
    assert progress.what_it_did({"stored": 1}, "stored", 10, 2.0).startswith(
        "1 file stored, 10 B in 2 s"
    )


def test_an_original_that_could_not_be_held_shows():
    line = progress.what_it_did({"delivered": 2, "held": 1}, "delivered", 2, 1.0)
    assert line.endswith("; 1 held")


def test_a_pass_that_did_nothing_says_so():
    assert progress.what_it_did(Counter(failed=0), "stored", 0, 0.1) == "nothing to do"


def test_a_pass_of_failures_claims_no_rate():
    assert (
        progress.what_it_did({"failed": 3}, "stored", 0, 0.5) == "0 files stored in 0.5 s; 3 failed"
    )


def test_a_long_pass_is_in_hours_and_minutes():
    assert "in 2:03:04," in progress.what_it_did({"stored": 9}, "stored", 9, 7384.0)


def test_nothing_is_left_to_guess_before_the_amount_of_work_is_known():
    assert step(files=3).numbers(5.0) == ["3 files", "0:00:05 so far"]


def test_the_time_left_follows_from_bytes_where_they_are_known():
    numbers = step(files=1, size=250, all_files=2, all_size=1000).numbers(10.0)
    assert numbers == [
        "1 of 2 files",
        "0:00:30 left",
        "25 B/s",
        "250 B of 1.0 kB",
        "0:00:10 so far",
    ]


def test_a_total_that_may_grow_is_at_least():
    numbers = step(files=1, size=500, all_files=4, all_size=1000, more=True).numbers(10.0)
    assert numbers[:2] == ["1 of at least 4 files", "at least 0:00:10 left"]


def test_reading_a_long_file_moves_the_bar():
    assert step(read=400, all_files=1, all_size=1000).share == 0.4


def test_a_narrow_terminal_gets_the_most_important_numbers():
    numbers = step(files=1, size=250, all_files=2, all_size=1000).numbers(10.0, failed=1)
    assert progress.fitting(numbers, 30) == "1 of 2 files, 0:00:30 left"
    assert progress.fitting(numbers, 200).endswith(", 1 failed")


def test_work_is_counted_ahead():
    bar = progress.ProgressBar("finder.a", Counter(), False)
    bar.advance(1, 5)
    bar._count(lambda: [SimpleNamespace(size_bytes=10)] * 4)
    assert (bar._now.all_files, bar._now.all_size, bar._now.more) == (4, 40, False)


def shown(command, columns):
    """Run a command on a terminal of so many columns; return its exit code and what it showed."""
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns)},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        timeout=120,
        check=False,
    )
    os.close(theirs)
    text = b""
    try:
        while block := os.read(ours, 65536):
            text += block
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    return ran.returncode, text.decode()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestOnATerminal:
    def test_a_pass_ends_with_what_it_did(self, site):
        site.put("a.fits")
        code, text = shown([TOP / "bin/dbb-handoff", "-c", site.config], 80)
        assert (code, text.count("\n")) == (0, 1)
        assert text.startswith("handoff.latiss: 1 file delivered, ")

    def test_progress_leaves_only_that_line(self, site):
        site.put("a.fits")
        code, text = shown([TOP / "bin/dbb-handoff", "-c", site.config, "--progress"], 40)
        assert code == 0
        assert "1 of 1 file, 4 B of 4 B" in text
        assert text.rpartition("\x1b[2K")[2].startswith("handoff.latiss: 1 file delivered, ")

    def test_without_a_terminal_progress_shows_nothing(self, site):
        site.put("a.fits")
        assert site.run("dbb-handoff", "--progress") == (0, "", "")
