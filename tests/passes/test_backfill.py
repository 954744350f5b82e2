"""Recording what was in storage before us: `dbb backfill`."""

import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from dbbbatch.cli import dbb
from dbbbatch.files import checksum, parallel
from dbbbatch.files.tree import Tree, outside
from dbbbatch.passes import runner
from dbbbatch.passes.backfill import BackfillWork
from tests.support.clocks import set_clock_of_files
from tests.support.scripts import TOP
from tests.support.site import Site


@pytest.fixture
def stored(site: Site) -> Site:
    """A site with two targets and three files in storage that the table does not know."""
    site.write(targets={"one": {}, "two": {}})
    (site.storage / ".dbb-storage").touch()
    for rel in ("2026-11-23/a.fits", "2026-11-24/b.fits", "2026-11-24/c d.fits"):
        site.put(rel, rel.encode(), site.storage)
    return site


def ask(site, sql):
    from dbbbatch.database import connect

    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


FILES = "SELECT relpath, filename, status FROM file ORDER BY relpath, filename"
STATES = (
    "SELECT DISTINCT t.name, s.status FROM ingest_state s JOIN target t ON t.id = s.target_id"
    " ORDER BY t.name"
)


def test_everything_is_recorded_and_taken_to_be_ingested(stored):
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "3 recorded, 0 already known, 0 failed, 0 unreadable\n"
    assert ask(stored, FILES) == [
        ("2026-11-23", "a.fits", "STORED"),
        ("2026-11-24", "b.fits", "STORED"),
        ("2026-11-24", "c d.fits", "STORED"),
    ]
    assert ask(stored, STATES) == [("one", "BACKFILL"), ("two", "BACKFILL")]


def test_row_says_what_the_file_is(stored):
    stored.run("dbb", "backfill", "finder.latiss", "2026-11-23/*")
    digest = checksum.compute(outside(str(stored.storage / "2026-11-23/a.fits")))["blake2b"]
    assert ask(stored, "SELECT filename, size_bytes, checksum, finder FROM file") == [
        ("a.fits", 17, f"blake2b:{digest}", "backfill")
    ]


@pytest.mark.parametrize(
    ("globs", "count"),
    [
        (["2026-11-24/*"], 2),
        (["**/b.fits"], 1),
        (["2026-11-23/a.fits", "*/c d.fits"], 2),
        (["2026-11-2?/**", "2026-11-24/*"], 3),
        (["2025/*"], 0),
        (["**"], 3),
    ],
)
@pytest.mark.parametrize("backend", ["sqlite"])
def test_globs_say_which_files(stored, globs, count):
    ran = stored.run("dbb", "backfill", "finder.latiss", *globs)
    assert ran.out.startswith(f"{count} recorded, 0 already known")


@pytest.mark.parametrize(
    "glob", ["/etc/*", "../*", "./*", "a/./*", "2026-11-23//*", "2026-11-23/", ""]
)
@pytest.mark.parametrize("backend", ["sqlite"])
def test_globs_that_lead_out_of_storage_or_there_in_other_words_are_refused(stored, glob):
    ran = stored.run("dbb", "backfill", "finder.latiss", glob)
    assert ran.code == 64
    assert "a glob relative to" in ran.err
    assert ask(stored, FILES) == []


def test_other_targets_than_the_named_one_are_offered_the_files(stored):
    stored.run("dbb", "backfill", "finder.latiss", "--target", "one")
    assert ask(stored, STATES) == [("one", "BACKFILL"), ("two", "UNTRIED")]


def test_as_rerun_makes_the_files_due(stored):
    stored.run("dbb", "backfill", "finder.latiss", "--target", "one", "--as", "RERUN")
    assert ask(stored, STATES) == [("one", "RERUN"), ("two", "UNTRIED")]


@pytest.mark.promise
def test_no_ingester_takes_what_is_backfilled(stored):
    stored.run("dbb", "backfill", "finder.latiss")
    assert stored.run("dbb-ingester", "one").code == 0
    assert ask(stored, STATES) == [("one", "BACKFILL"), ("two", "BACKFILL")]


def test_what_is_recorded_is_not_read_again(stored):
    stored.run("dbb", "backfill", "finder.latiss", "--limit", "2")
    os.chmod(stored.storage, 0o755)
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert ran.out == "1 recorded, 2 already known, 0 failed, 0 unreadable\n"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_links_are_not_followed(stored):
    os.symlink("2026-11-23/a.fits", stored.storage / "link")
    os.symlink("none", stored.storage / "nowhere")
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert (ran.code, ran.out[:10]) == (0, "3 recorded")


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_link_to_a_directory_is_said_and_fails(stored, options):
    os.symlink("2026-11-23", stored.storage / "link")
    ran = stored.run("dbb", "backfill", "finder.latiss", *options)
    assert ran.code == 1
    assert f"{stored.storage}/link: a symbolic link; nothing of it is recorded\n" in ran.err
    if not options:
        assert ran.out == "3 recorded, 0 already known, 0 failed, 1 unreadable\n"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_is_named_like_an_unfinished_copy_is_said_and_fails(stored):
    stored.put(".dbb~notes", b"mine", stored.storage)
    stored.put(".dbb~0123456789abcdef01234567", b"ours", stored.storage)
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert (ran.code, ran.out[:10]) == (1, "3 recorded")
    assert f"{stored.storage}/.dbb~notes: begins with .dbb~, as unfinished copies do" in ran.err
    assert ".dbb~0123" not in ran.err
    stored.write(finder={"exclude": ["notes$"]}, targets={"one": {}})
    assert stored.run("dbb", "backfill", "finder.latiss").code == 0


@pytest.mark.parametrize("exclude", ["^link$", "^link/$"])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_link_to_a_directory_that_is_excluded_is_not_said(stored, exclude):
    stored.write(finder={"exclude": [exclude]}, targets={"one": {}})
    os.symlink("2026-11-23", stored.storage / "link")
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert (ran.code, ran.err) == (0, "")


@pytest.mark.parametrize("backend", ["sqlite"])
def test_only_directories_in_which_a_match_can_lie_are_looked_at(stored):
    for top in ("2026-11-22", "2026-11-23/deep"):
        (stored.storage / top).mkdir()
    os.symlink(stored.storage, stored.storage / "2026-11-22/link")
    os.symlink(stored.storage, stored.storage / "link")
    globs = ["2026-11-23/deep/*", "2026-11-23/a.fits"]
    ran = stored.run("dbb", "backfill", "finder.latiss", *globs)
    assert (ran.code, ran.err, ran.out[:10]) == (0, "", "1 recorded")
    os.symlink(stored.storage, stored.storage / "2026-11-23/deep/link")
    assert stored.run("dbb", "backfill", "finder.latiss", *globs).code == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_directory_that_cannot_be_read_is_counted_said_and_fails(stored, monkeypatch):
    def read(tree, rel, real=Tree.scan):
        if rel == "2026-11-24":
            raise PermissionError(13, "Permission denied")
        yield from real(tree, rel)

    monkeypatch.setattr(Tree, "scan", read)
    words = ["-c", str(stored.config), "backfill", "finder.latiss"]
    ran = CliRunner().invoke(dbb.dbb, words, standalone_mode=False)
    assert ran.return_value == 1
    assert "1 recorded, 0 already known, 0 failed, 1 unreadable\n" in ran.output
    assert f"{stored.storage}/2026-11-24: directory cannot be read: Permission denied" in ran.output


@pytest.mark.parametrize("globs", [[], ["lost/*"], ["lost/deep/*"]])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_directory_that_a_finder_does_not_enter_is_not_entered(stored, globs):
    stored.write(finder={"exclude": ["^lost/$"]}, targets={"one": {}})
    stored.put("lost/deep/x.fits", b"x", stored.storage)
    ran = stored.run("dbb", "backfill", "finder.latiss", *globs)
    assert ran.code == 0
    assert ("lost/deep", "x.fits", "STORED") not in ask(stored, FILES)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_files_that_may_still_change_are_counted_and_left_for_later(stored):
    stored.run("dbb", "backfill", "finder.latiss", "2026-11-23/*")
    stored.write(finder={"settle": "1h"}, targets={"one": {}})
    os.utime(stored.storage / "2026-11-24/b.fits", (1, 1))
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert (ran.code, ran.out) == (
        0,
        "1 recorded, 1 already known, 0 failed, 0 unreadable\n1 not settled yet: run it again\n",
    )
    stored.write(targets={"one": {}})
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert ran.out == "1 recorded, 2 already known, 0 failed, 0 unreadable\n"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_date_in_the_future_does_not_keep_a_file_from_settling(stored, monkeypatch):
    ahead = time.time() + 86400
    os.utime(stored.storage / "2026-11-23/a.fits", (ahead, ahead))
    settings = stored.settings()
    finder = replace(settings.finder["latiss"], settle=1800)
    set_clock_of_files(monkeypatch, 86400 - 3600)
    work = BackfillWork(finder)
    assert runner.run_pass(work, settings, finder, runner.Options()) == 0
    assert (work.counts["recorded"], work.counts["not settled"]) == (3, 0)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("glob", ["link/*", "link/2026-11-23/*"])
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_globs_that_lead_through_a_link_are_refused(stored, glob, options):
    stored.put("2026-11-23/x.fits", b"outside", stored.root / "outside")
    os.symlink(stored.root / "outside", stored.storage / "link")
    ran = stored.run("dbb", "backfill", "finder.latiss", glob, *options)
    assert ran.code == 64
    assert "link is a symbolic link; only what lies in" in ran.err
    assert ask(stored, FILES) == []


def test_dry_run_records_nothing(stored):
    ran = stored.run("dbb", "backfill", "finder.latiss", "--dry-run")
    assert ran.out.splitlines()[0] == "would record 2026-11-23/a.fits, 17 bytes"
    assert len(ran.out.splitlines()) == 3
    assert ask(stored, FILES) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_storage_without_its_sentinel_is_left_alone(stored):
    (stored.storage / ".dbb-storage").unlink()
    ran = stored.run("dbb", "backfill", "finder.latiss")
    assert ran.code == 75
    assert ask(stored, FILES) == []


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("label", ["handoff.latiss", "finder.none", "latiss"])
def test_label_that_is_no_finder_is_refused(stored, label):
    assert stored.run("dbb", "backfill", label).code == 64


@pytest.mark.parametrize("backend", ["sqlite"])
def test_target_of_another_storage_is_refused(stored):
    ran = stored.run("dbb", "backfill", "finder.latiss", "--target", "three")
    assert ran.code == 64
    assert "no target reads" in ran.err


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_cannot_be_read_is_counted_and_the_rest_recorded(stored, monkeypatch, capsys):
    def compute(path, *more, real=checksum.compute):
        if str(path).endswith("a.fits"):
            raise PermissionError(13, "Permission denied")
        return real(path, *more)

    monkeypatch.setattr(checksum, "compute", compute)
    settings = stored.settings()
    work = BackfillWork(settings.finder["latiss"])
    assert runner.run_pass(work, settings, settings.finder["latiss"], runner.Options()) == 1
    assert (work.counts["recorded"], work.counts["unreadable"]) == (2, 1)
    said = capsys.readouterr().err
    assert f"{stored.storage}/2026-11-23/a.fits: Permission denied" in said


@pytest.mark.parametrize("backend", ["sqlite"])
def test_so_many_files_are_read_at_a_time_as_there_are_jobs(stored, monkeypatch):
    stored.put("2026-11-24/d.fits", b"four", stored.storage)
    together = threading.Barrier(2, timeout=20)

    def compute(path, *more, real=checksum.compute):
        together.wait()
        return real(path, *more)

    monkeypatch.setattr(parallel, "_HANDFUL", 1)
    monkeypatch.setattr(checksum, "compute", compute)
    settings = stored.settings()
    work = BackfillWork(settings.finder["latiss"], jobs=2)
    assert runner.run_pass(work, settings, settings.finder["latiss"], runner.Options()) == 0
    monkeypatch.undo()
    assert dict(ask(stored, "SELECT filename, checksum FROM file")) == {
        path.name: checksum.format("blake2b", checksum.compute(outside(str(path)))["blake2b"])
        for path in stored.storage.rglob("*.fits")
    }


@pytest.mark.parametrize("backend", ["sqlite"])
def test_progress_is_shown_on_a_terminal(stored):
    ours, theirs = pty.openpty()
    ran = subprocess.run(
        [sys.executable, TOP / "bin/dbb", "-c", stored.config, "backfill", "finder.latiss"],
        env={**os.environ, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=120,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert (ran.returncode, ran.stdout[:10]) == (0, b"3 recorded")
    assert "recording files" in shown
    assert "3 of 3 files" in shown
