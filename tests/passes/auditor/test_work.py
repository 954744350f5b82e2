"""The auditor: what it finds, what it marks, and what it leaves alone."""

import errno
import os
import re
import shlex
import shutil
import time
import types
from dataclasses import replace

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.files import checksum, place, temporary
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, outside
from dbbbatch.passes import context, runner
from dbbbatch.passes.auditor import content, orphans, rows
from dbbbatch.passes.auditor.rows import RowComparison
from dbbbatch.passes.auditor.work import AuditorWork
from tests.support.clocks import set_clock_of_files
from tests.support.finding import SENTINEL, Finding, tree
from tests.support.site import Site

FILES = {f"2026/{name}.fits": name.encode() for name in "abcdefghijkl"}


@pytest.fixture
def stored(site: Site) -> Site:
    """A site with twelve files in storage, ingested into one target by links."""
    (site.root / "links").mkdir()
    link = {
        "plugin": "link",
        "config": {"root": str(site.root / "links"), "path": "{relpath}/{filename}"},
    }
    site.write(targets={"a": link}, finder={"audit_rate": 0})
    (site.storage / ".dbb-storage").touch()
    for rel, data in FILES.items():
        site.put(rel, data, site.far_buffer)
    assert site.run("dbb-finder").code == 0
    return site


def audit(site, *options):
    return site.run("dbb-auditor", *options)


def ask(site, sql):
    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


WRONG = "SELECT filename, status FROM file WHERE status <> 'STORED' ORDER BY filename"


def test_all_well_says_nothing(stored):
    ran = audit(stored, "--share", "1")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize(("keep", "left"), [(0, 3), ("30d", 2)])
def test_old_events_are_thinned_only_where_that_is_asked_for(stored, keep, left):
    assert stored.run("dbb-ingester").code == 0
    assert audit(stored).code == 0
    file = "(SELECT min(file_id) FROM ingest_state)"
    connect.connect(stored.settings().database)
    connect.execute(
        "UPDATE ingest_event SET start_time = '2020-01-01 00:00:00.000000'"
        f" WHERE file_id = {file} AND status <> 'SUCCESS'"
    )
    connect.disconnect()
    document = stored.config.read_text()
    stored.config.write_text(document.replace("[site]", f'[site]\nkeep_events = "{keep}"'))
    assert audit(stored).code == 0
    assert ask(stored, f"SELECT count(*) FROM ingest_event WHERE file_id = {file}") == [(left,)]


def test_row_without_a_file_is_missing(stored):
    (stored.storage / "2026/a.fits").unlink()
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/a.fits: is not in storage" in ran.err
    assert ask(stored, WRONG) == [("a.fits", "MISSING")]


def test_file_that_is_there_again_is_stored(stored):
    path = stored.storage / "2026/a.fits"
    os.rename(path, stored.root / "away")
    audit(stored)
    os.rename(stored.root / "away", path)
    assert audit(stored).code == 0
    assert ask(stored, WRONG) == []


def test_other_file_in_the_place_of_a_missing_one_is_corrupt(stored):
    path = stored.storage / "2026/a.fits"
    path.unlink()
    audit(stored)
    path.write_bytes(b"X")
    assert audit(stored).code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]


@pytest.mark.parametrize("content", [b"longer", b"X"])
def test_wrong_size_or_content_is_corrupt(stored, content):
    (stored.storage / "2026/a.fits").write_bytes(content)
    assert audit(stored, "--share", "1").code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]
    assert (stored.storage / "2026/a.fits").read_bytes() == content


def test_directory_in_the_place_of_a_file_is_corrupt(stored):
    (stored.storage / "2026/a.fits").unlink()
    (stored.storage / "2026/a.fits").mkdir()
    assert audit(stored).code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]


def test_a_share_is_read_those_first_that_were_not_for_longest(stored):
    seen = []
    for _ in range(3):
        assert audit(stored, "--share", "0.3").code == 0
        seen += ask(stored, "SELECT count(DISTINCT verified_at) FROM file")
    # Four of the twelve each time: after three passes all have been read.
    assert seen == [(2,), (3,), (3,)]


def test_what_a_clock_ahead_verified_is_read_again_in_its_turn(stored):
    connect.connect(stored.settings().database)
    connect.execute("UPDATE file SET verified_at = '2099-01-01 00:00:00.000000'")
    connect.disconnect()
    for code in (0, 0):
        assert audit(stored, "--share", "1").code == code
    (first,) = ask(stored, "SELECT min(verified_at) FROM file")
    assert not str(first[0]).startswith("2099")


@pytest.mark.promise
@pytest.mark.parametrize("count", [2, 12])
def test_too_many_missing_look_like_an_unmounted_storage(stored, count):
    for rel in list(FILES)[:count]:
        (stored.storage / rel).unlink()
    ran = audit(stored)
    assert ran.code == 75
    assert f"{count} of 12 files are not there" in ran.err
    assert "looks unmounted" in ran.err
    assert ask(stored, WRONG) == []


def test_lost_files_are_marked_if_that_is_asked_for(stored):
    for rel in list(FILES)[:6]:
        (stored.storage / rel).unlink()
    assert audit(stored, "--missing", "1").code == 1
    assert len(ask(stored, WRONG)) == 6


@pytest.mark.promise
def test_storage_without_its_sentinel_changes_nothing(stored):
    (stored.storage / "2026/a.fits").unlink()
    (stored.storage / ".dbb-storage").unlink()
    assert audit(stored).code == 75
    assert ask(stored, WRONG) == []


def test_file_without_a_row_is_reported(stored):
    stored.put("2026/orphan.fits", b"orphan", stored.storage)
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/orphan.fits: is in storage, but the table does not know it" in ran.err
    assert len(ask(stored, "SELECT id FROM file")) == 12


def test_file_without_a_row_is_adopted_and_due(stored):
    assert stored.run("dbb-ingester").code == 0
    stored.put("2026/orphan.fits", b"orphan", stored.storage)
    assert audit(stored, "--adopt").code == 0
    digest = checksum.compute(outside(str(stored.storage / "2026/orphan.fits")))["blake2b"]
    assert ask(stored, "SELECT status, checksum FROM file WHERE filename = 'orphan.fits'") == [
        ("STORED", f"blake2b:{digest}")
    ]
    assert ask(stored, "SELECT count(*) FROM ingest_state WHERE status = 'UNTRIED'") == [(1,)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_a_finder_would_leave_is_not_adopted(stored):
    stored.write(finder={"exclude": [r"\.tmp$"]})
    stored.put("2026/orphan.tmp", b"orphan", stored.storage)
    assert audit(stored, "--adopt").code == 0
    assert len(ask(stored, "SELECT id FROM file")) == 12


@pytest.mark.parametrize("backend", ["sqlite"])
def test_forgotten_file_that_is_there_is_an_orphan(stored):
    connect.connect(stored.settings().database)
    connect.write(connect.execute, "UPDATE file SET status = 'FORGOTTEN' WHERE filename = 'a.fits'")
    connect.disconnect()
    assert audit(stored).code == 1
    assert audit(stored, "--adopt").code == 0
    assert ask(stored, WRONG) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_links_in_storage_are_said_and_not_followed(stored):
    os.symlink("/etc", stored.storage / "etc")
    ran = audit(stored, "--adopt")
    assert ran.code == 0
    assert "etc: a symbolic link" in ran.err


@pytest.mark.parametrize("backend", ["sqlite"])
def test_unfinished_copy_is_removed_once_abandoned_however_old_its_original(finding, monkeypatch):
    original = finding.put("a")
    os.utime(original, (1, 1))
    place.copy_beside(outside(str(original)), outside(str(finding.storage / "a")))
    copy = temporary.temporary_path(str(finding.storage / "a"))
    assert inside(finding) == 0
    assert os.path.exists(copy)
    set_clock_of_files(monkeypatch, 8 * 86400)
    plan = runner.plan_pass(
        AuditorWork(finding.finder), finding.settings, finding.finder, runner.Options()
    )
    assert list(plan) == []
    assert os.path.exists(copy)
    assert inside(finding) == 0
    assert not os.path.exists(copy)


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_is_only_named_like_an_unfinished_copy_stays_and_is_said(
    finding, monkeypatch, capsys
):
    notes = finding.put(".dbb~lab-notebook.txt", b"mine", finding.storage)
    set_clock_of_files(monkeypatch, 8 * 86400)
    assert inside(finding) == 0
    assert notes.read_bytes() == b"mine"
    assert ".dbb~lab-notebook.txt: begins with .dbb~" in capsys.readouterr().err
    finding.change(exclude=(re.compile("notebook"),))
    inside(finding)
    assert notes.exists()
    assert "is over: .dbb~lab-notebook.txt" in capsys.readouterr().err


def test_file_that_a_target_does_not_hold_is_reported(stored):
    assert stored.run("dbb-ingester").code == 0
    assert audit(stored).code == 0
    (stored.root / "links/2026/a.fits").unlink()
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/a.fits: is ingested according to the table, but target.a does not hold it" in (
        ran.err
    )
    command = shlex.split(ran.err.partition("`dbb ")[2].partition("`")[0])
    assert command == ["retry", "target.a", "--status", "SUCCESS", "--match", "2026/a.fits"]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", ["back\\slash", os.fsdecode(b"caf\xe9")])
def test_target_is_asked_about_files_of_any_name(stored, name):
    stored.put(f"2026/{name}", b"data", stored.far_buffer)
    assert stored.run("dbb-finder").code == 0
    assert stored.run("dbb-ingester").code == 0
    assert audit(stored).code == 0
    (stored.root / "links/2026" / name).unlink()
    ran = audit(stored)
    assert ran.code == 1
    assert "target.a does not hold it" in ran.err


@pytest.mark.parametrize("backend", ["sqlite"])
def test_target_that_is_away_is_said_and_the_rest_audited(stored):
    assert stored.run("dbb-ingester").code == 0
    os.rename(stored.root / "links", stored.root / "away")
    ran = audit(stored, "--share", "1")
    assert "target.a: was not audited" in ran.err
    assert ask(stored, "SELECT count(DISTINCT verified_at) FROM file") == [(1,)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_what_a_finder_remembers_of_a_file_that_left_is_forgotten(stored):
    for name in ("a", "b"):
        stored.put(f"2026/{name}.fits", name.encode(), stored.far_buffer)
    stored.run("dbb-finder")
    (stored.far_buffer / "2026/a.fits").unlink()
    audit(stored)
    assert ask(stored, "SELECT filename FROM finder_left") == [("b.fits",)]


@pytest.mark.parametrize("verdict", ["FAILED", "DUPLICATE"])
@pytest.mark.parametrize("what", ["link", "unreadable", "stale"])
def test_directory_of_the_source_that_cannot_be_entered_keeps_what_is_remembered(
    finding, monkeypatch, what, verdict
):
    finding.add_target()
    fill(finding, a=1)
    old = "'2020-01-01 00:00:00.000000'"
    finding.change_rows(f"UPDATE ingest_event SET start_time = {old}")
    finding.change_rows(
        "INSERT INTO ingest_event (file_id, target_id, status, start_time, number)"
        f" SELECT file_id, target_id, 'PENDING', {old}, 99 FROM ingest_event"
    )
    finding.settings = replace(
        finding.settings, site=replace(finding.settings.site, keep_events=86400.0)
    )
    for name in ("d/x", "gone/y"):
        relpath, filename = name.split("/")
        finding.change_rows(
            "INSERT INTO finder_left (site, finder, relpath, filename, size_bytes, mtime_ns, inode,"
            f" verdict, seen_at) VALUES ('archive', 'latiss', ?, ?, 1, 1, 1, ?, {old})",
            [relpath, filename, verdict],
        )
    finding.put("e/x")
    os.symlink("e", finding.source / "d")
    number = {"unreadable": errno.EACCES, "stale": errno.ESTALE}.get(what)

    def lstat(file, real=Entry.lstat):
        if number and file.rel == "d/x":
            raise OSError(number, os.strerror(number), file.path)
        return real(file)

    monkeypatch.setattr(Entry, "lstat", lstat)
    assert inside(finding) == (75 if what == "stale" else 0)
    assert ("d",) in finding.rows("SELECT relpath FROM finder_left")
    if what != "stale":
        assert finding.rows("SELECT relpath FROM finder_left") == [("d",)]
        assert finding.counts()["events removed"] == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_changes_nothing(stored):
    (stored.storage / "2026/a.fits").unlink()
    stored.put("orphan", b"orphan", stored.storage)
    ran = audit(stored, "--dry-run")
    assert ran.out.splitlines() == [
        "would mark 2026/a.fits MISSING: is not in storage",
        "would report orphan, which the table does not know",
        "1 of 12 stored files read: --share 1 reads all",
        "targets were not asked, as a pass does",
    ]
    assert ask(stored, WRONG) == []


def test_dry_run_reads_what_a_pass_would_read(stored):
    (stored.storage / "2026/a.fits").unlink()
    audit(stored, "--missing", "1")
    stored.put("2026/a.fits", FILES["2026/a.fits"], stored.storage)
    path = stored.storage / "2026/b.fits"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"x" * len(content))
    before = ask(stored, "SELECT * FROM file ORDER BY id")
    ran = audit(stored, "--dry-run", "--share", "1")
    back, wrong, read, targets = ran.out.splitlines()
    assert back == "would mark 2026/a.fits STORED: it is there again, with its content"
    assert wrong.startswith("would mark 2026/b.fits CORRUPT: has blake2b ")
    assert read == "11 of 11 stored files read"
    assert targets.startswith("targets were not asked")
    assert ask(stored, "SELECT * FROM file ORDER BY id") == before


@pytest.mark.parametrize("backend", ["sqlite"])
def test_only_matching_files_are_audited(stored):
    for name in ("a", "b"):
        (stored.storage / f"2026/{name}.fits").unlink()
    audit(stored, "--match", "2026/a*", "--missing", "1")
    assert ask(stored, WRONG) == [("a.fits", "MISSING")]


@pytest.fixture
def finding(settings, tmp_path):
    """A finder and its directories, without a target."""
    return Finding(settings, tmp_path, retry_wait=0, audit_rate=0)


def inside(finding, *, match=(), max_time=None, limit=None, **keys):
    """Audit in this process; return the exit code."""
    work = AuditorWork(finding.finder, **keys)
    options = runner.Options(match=match, max_time=max_time, limit=limit)
    return runner.run_pass(work, finding.settings, finding.finder, options)


def clock(now, sleep=time.sleep):
    """Return a module `time` with its own idea of the time."""
    return types.SimpleNamespace(time=now, monotonic=now, sleep=sleep)


def fill(finding, **directories):
    """Store so many files in each directory."""
    for directory, count in directories.items():
        for number in range(count):
            finding.put(f"{directory}/{number}", os.fsencode(f"{directory} {number}"))
    assert finding.run() == 0


def wrong(finding):
    return finding.rows(WRONG)


def between(monkeypatch, module, name, happens, number=1):
    """Make something happen just before the Nth call of a function of the pass."""
    real, calls = getattr(module, name), []

    def function(*arguments, **more):
        calls.append(name)
        if len(calls) == number:
            happens()
        return real(*arguments, **more)

    monkeypatch.setattr(module, name, function)


class TestUnmounted:
    @pytest.mark.promise
    def test_bare_directory_is_said_and_the_rest_is_marked(self, finding, capsys):
        fill(finding, d2025=4, d2026=96)
        shutil.rmtree(finding.storage / "d2025")
        (finding.storage / "d2025").mkdir()
        (finding.storage / "d2026/0").unlink()
        assert inside(finding) == 75
        said = capsys.readouterr().err
        assert "not there or empty: d2025 (4 files); that looks unmounted" in said
        assert "dbb-auditor latiss --missing 1 --match 'd2025/*'" in said
        assert wrong(finding) == [("0", "MISSING")]

    def test_outermost_bare_directory_is_the_one_that_looks_unmounted(self, finding, capsys):
        for number in range(12):
            finding.put(f"m [1]/{number}/a", b"%d" % number)
        fill(finding, rest=200)
        shutil.rmtree(finding.storage / "m [1]")
        assert inside(finding) == 75
        assert "empty: m [1] (12 files)" in (said := capsys.readouterr().err)
        assert "--match 'm [[]1]/*'" in said
        assert inside(finding, missing=1, match=("m [[]1]/*",)) == 1
        assert wrong(finding) == [("a", "MISSING")] * 12

    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_directory_that_is_not_utf8_is_marked_as_it_is_advised(self, finding, capsys):
        directory = os.fsdecode(b"caf\xe9")
        fill(finding, **{directory: 4}, rest=96)
        shutil.rmtree(finding.storage / directory)
        assert inside(finding) == 75
        assert r"--match $'caf\xe9/*'" in capsys.readouterr().err
        assert inside(finding, missing=1, match=(directory + "/*",)) == 1
        assert len(wrong(finding)) == 4

    def test_directory_of_a_few_files_may_be_lost(self, finding):
        fill(finding, few=3, rest=97)
        shutil.rmtree(finding.storage / "few")
        assert inside(finding) == 1
        assert len(wrong(finding)) == 3

    def test_directory_that_was_believed_to_be_lost_is_not_unmounted(self, finding, capsys):
        fill(finding, lost=4, rest=96)
        shutil.rmtree(finding.storage / "lost")
        assert inside(finding, missing=1, match=("lost/*",)) == 1
        assert inside(finding) == 1
        assert "unmounted" not in capsys.readouterr().err

    def test_dry_run_says_it_too(self, finding):
        from dbbbatch.errors import TryLater

        fill(finding, lost=4, rest=96)
        shutil.rmtree(finding.storage / "lost")
        (finding.storage / "rest/0").unlink()
        plan = runner.plan_pass(
            AuditorWork(finding.finder), finding.settings, finding.finder, runner.Options()
        )
        assert next(plan) == "would mark rest/0 MISSING: is not in storage"
        with pytest.raises(TryLater, match="looks unmounted"):
            list(plan)

    @pytest.mark.promise
    def test_share_is_that_of_the_files_that_were_looked_at(self, finding, capsys):
        fill(finding, a=5, b=95)
        for number in range(5):
            (finding.storage / f"a/{number}").unlink()
        assert inside(finding, match=("a/*",)) == 75
        assert "5 of 5 files are not there" in capsys.readouterr().err
        assert wrong(finding) == []

    @pytest.mark.promise
    @pytest.mark.parametrize("page", [5, 5000])
    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_pass_that_was_broken_off_marks_nothing(self, finding, monkeypatch, page):
        fill(finding, a=100)
        for number in range(100 if page == 5 else 1):
            (finding.storage / f"a/{number}").unlink()
        monkeypatch.setattr(rows, "_ROWS_PAGE", page)
        between(monkeypatch, rows, "_compare_row", lambda: os.kill(os.getpid(), 15))
        assert inside(finding) == 75
        assert wrong(finding) == []

    @pytest.mark.promise
    def test_storage_is_there_still_before_anything_is_marked(self, finding, monkeypatch):
        fill(finding, a=20)
        (finding.storage / "a/0").unlink()
        gone = lambda: (finding.storage / SENTINEL).unlink()  # noqa: E731
        between(monkeypatch, rows, "_compare_row", gone)
        assert inside(finding) == 75
        assert wrong(finding) == []

    @pytest.mark.promise
    def test_storage_is_there_still_before_content_is_called_wrong(self, finding, monkeypatch):
        fill(finding, a=20)
        (finding.storage / "a/0").write_bytes(b"A 0")
        gone = lambda: (finding.storage / SENTINEL).unlink()  # noqa: E731
        between(monkeypatch, checksum, "read_file", gone)
        assert inside(finding, share=1) == 75
        assert wrong(finding) == []

    @pytest.mark.promise
    @pytest.mark.parametrize("mount_point", [False, True])
    @pytest.mark.parametrize("backend", ["sqlite"])
    def test_storage_that_goes_away_before_the_scan_is_tried_later(
        self, finding, monkeypatch, capsys, mount_point
    ):
        fill(finding, a=20)

        def gone():
            finding.storage.rename(finding.storage.parent / "away")
            if mount_point:
                finding.put("stray", b"stray", finding.storage)

        between(monkeypatch, orphans, "scan", gone)
        assert inside(finding, adopt=True) == 75
        assert "mount" in capsys.readouterr().err
        assert finding.rows("SELECT count(*) FROM file WHERE filename = 'stray'") == [(0,)]


@pytest.mark.parametrize("backend", ["sqlite"])
class TestFilledByRsync:
    """Files without a row that rsync has not finished, or no log has told of yet."""

    UNFINISHED = (".b.fits.3aHj8o", "d/.c.3aHj8o", "d/.~tmp~/c", ".rsync-partial/c")

    @pytest.fixture
    def finding(self, finding):
        finding.change(search="rsync-logs", standard="none")
        return finding

    def orphans(self, finding, monkeypatch, hours):
        """Adopt so many hours after the files were put there; return what is recorded."""
        set_clock_of_files(monkeypatch, 3600 * hours)
        assert inside(finding) == (1 if hours > 1 and "a.fits" in tree(finding.storage) else 0)
        assert inside(finding, adopt=True) == 0
        return [filename for _, filename, _ in finding.rows()]

    def test_what_has_the_name_of_something_unfinished_is_passed_over(self, finding, monkeypatch):
        for rel in self.UNFINISHED:
            finding.put(rel, b"half", finding.storage)
        assert self.orphans(finding, monkeypatch, hours=48) == []

    def test_what_changed_a_moment_ago_is_passed_over(self, finding, monkeypatch):
        os.utime(finding.put("a.fits", b"data", finding.storage), (1, 1))
        assert self.orphans(finding, monkeypatch, hours=0.9) == []
        assert self.orphans(finding, monkeypatch, hours=1.1) == ["a.fits"]

    def test_the_auditor_of_another_finder_of_this_storage_knows(self, finding, monkeypatch):
        finding.settings = replace(finding.settings, finder={"rsync": finding.finder})
        finding.change(search="scan", standard="move")
        finding.put(self.UNFINISHED[0], b"half", finding.storage)
        assert self.orphans(finding, monkeypatch, hours=48) == []

    def test_elsewhere_such_names_are_files_as_any(self, finding, monkeypatch):
        finding.change(search="scan", standard="move")
        finding.put(self.UNFINISHED[0], b"whole", finding.storage)
        assert inside(finding, adopt=True) == 0
        assert len(finding.rows()) == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_no_more_files_are_adopted_than_asked_for(finding):
    for number in range(4):
        finding.put(f"{number}", b"%d" % number, finding.storage)
    assert inside(finding, adopt=True, limit=1) == 0
    assert len(finding.rows()) == 1


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOENT, 0), (errno.ESTALE, 75)])
def test_fault_that_is_none_of_a_file_does_not_fail_its_adoption(
    finding, monkeypatch, number, code
):
    finding.put("a", b"data", finding.storage)
    error = OSError(number, os.strerror(number))
    monkeypatch.setattr(checksum, "read_file", lambda *_: (_ for _ in ()).throw(error))
    assert inside(finding, adopt=True) == code
    assert "failed" not in finding.counts()


def unreadable(monkeypatch, names, error):
    """Let no file of these names be read; return what was tried, in order."""
    tried = []

    def read_file(file, algorithms, real=checksum.read_file):
        tried.append(file.rel)
        if file.rel in names:
            raise error
        return real(file, algorithms)

    monkeypatch.setattr(checksum, "read_file", read_file)
    return tried


def verified(finding):
    """Return when each file was last found to be right."""
    return dict(finding.rows("SELECT relpath || '/' || filename, verified_at FROM file"))


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(errno.EIO, "Input/output error"), 1), (FileNotFoundError(), 0)]
)
def test_files_that_cannot_be_read_do_not_keep_others_from_being_verified(
    finding, monkeypatch, error, code
):
    fill(finding, a=3, b=17)
    broken = {f"a/{number}" for number in range(3)}
    finding.change_rows("UPDATE file SET verified_at = '2020-01-01 00:00:00' WHERE relpath = 'a'")
    before = verified(finding)
    tried = unreadable(monkeypatch, broken, error)
    for _ in range(9):  # a share of a tenth is 2 of 20, which reads the 17 in 9 passes
        tried.clear()
        assert inside(finding, share=0.1) == code
        assert len(tried) == 5
    after = verified(finding)
    assert {name for name in before if after[name] == before[name]} == broken


@pytest.mark.parametrize("backend", ["sqlite"])
def test_files_that_cannot_be_read_are_tried_up_to_a_multiple_of_the_share(finding, monkeypatch):
    fill(finding, a=30)
    tried = unreadable(monkeypatch, {f"a/{number}" for number in range(30)}, OSError(5, "bad"))
    assert inside(finding, share=0.05) == 1
    assert len(tried) == len(set(tried)) == 2 * content._MOST_TRIED


@pytest.mark.parametrize("backend", ["sqlite"])
def test_limit_counts_files_that_cannot_be_read(finding, monkeypatch):
    fill(finding, a=10)
    tried = unreadable(monkeypatch, {f"a/{number}" for number in range(10)}, OSError(5, "bad"))
    assert inside(finding, share=0.5, limit=3) == 1
    assert len(tried) == 3


@pytest.mark.parametrize("backend", ["sqlite"])
def test_share_passes_over_what_cannot_be_read_within_a_page_of_matches(finding, monkeypatch):
    fill(finding, a=2, b=8)
    finding.change_rows("UPDATE file SET verified_at = '2020-01-01 00:00:00' WHERE relpath = 'a'")
    unreadable(monkeypatch, {"a/0", "a/1"}, OSError(5, "bad"))
    before = verified(finding)
    assert inside(finding, share=0.2, match=("*/*",)) == 1
    after = verified(finding)
    assert sum(after[name] != before[name] for name in before) == 2


@pytest.mark.parametrize("backend", ["sqlite"])
def test_look_passes_over_what_cannot_be_read_as_a_pass_does(finding, monkeypatch):
    fill(finding, a=1, b=9)
    finding.change_rows("UPDATE file SET verified_at = '2020-01-01 00:00:00' WHERE relpath = 'a'")
    unreadable(monkeypatch, {"a/0"}, OSError(5, "bad"))
    work = AuditorWork(finding.finder, share=0.1)
    said = list(runner.plan_pass(work, finding.settings, finding.finder, runner.Options()))
    assert "a/0: cannot be read: bad" in said
    assert any(line.startswith("1 of 10 stored files read") for line in said)


def test_share_is_drawn_among_the_files_that_match(finding):
    fill(finding, c=98, d=2)
    for number in range(2):
        (finding.storage / f"d/{number}").write_bytes(b"D %d" % number)
    assert inside(finding, match=("d/*",), share=0.5) == 1
    assert wrong(finding) == [("0", "CORRUPT")]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_digests_are_shown_as_far_as_a_person_compares_them(finding, capsys):
    fill(finding, a=1)
    (finding.storage / "a/0").write_bytes(b"A 0")
    assert inside(finding, share=1) == 1
    shown = re.search(
        "has blake2b ([0-9a-f]{16})… instead of ([0-9a-f]{16})…", capsys.readouterr().err
    )
    assert shown[1] != shown[2]


@pytest.mark.promise
class TestMeanwhile:
    """What happens between the look at the disk and the mark."""

    @pytest.fixture
    def lost(self, finding):
        """One of twenty files is lost, and has come once more."""
        fill(finding, a=20)
        (finding.storage / "a/0").unlink()
        finding.put("a/0", b"a 0")
        return finding

    def elsewhere(self, function):
        """Call a function in another process, with a connection of its own."""
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                connect.proxy.obj = None
                code = function() or 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    @pytest.mark.parametrize("when", [(RowComparison, "mark", 1), (Roots, "require", 2)])
    def test_file_that_is_stored_is_not_missing(self, lost, monkeypatch, when):
        between(monkeypatch, *when[:2], lambda: self.elsewhere(lost.run), number=when[2])
        assert inside(lost) == 0
        assert wrong(lost) == []

    def test_file_that_somebody_puts_back_is_not_missing(self, finding, monkeypatch):
        fill(finding, a=20)
        path, away = finding.storage / "a/0", finding.storage.parent / "away"
        path.rename(away)
        between(monkeypatch, RowComparison, "mark", lambda: away.rename(path))
        assert inside(finding) == 0
        assert wrong(finding) == []

    def test_content_that_is_recorded_is_not_corrupt(self, finding, monkeypatch):
        fill(finding, a=20)
        path = finding.storage / "a/0"

        def update():
            path.unlink()
            path.write_bytes(b"updated")
            digest = checksum.compute(outside(str(path)))["blake2b"]
            sql = "UPDATE file SET size_bytes = 7, checksum = ? WHERE filename = '0'"
            self.elsewhere(lambda: finding.change_rows(sql, [f"blake2b:{digest}"]))

        between(monkeypatch, rows, "_compare_row", update)
        assert inside(finding) == 0
        assert wrong(finding) == []
        assert inside(finding, share=1) == 0

    def test_content_that_is_replaced_while_it_is_read_is_not_corrupt(self, finding, monkeypatch):
        fill(finding, a=20)
        path = finding.storage / "a/0"
        real = checksum.stream

        def stream(descriptor, *more):
            sums = real(descriptor, *more)
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
                path.unlink()
                path.write_bytes(b"a 0")
                return dict.fromkeys(sums, "0")
            return sums

        monkeypatch.setattr(checksum, "stream", stream)
        assert inside(finding, share=1) == 0
        assert wrong(finding) == []


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("status", ["STORED", "MISSING"])
def test_file_that_cannot_be_looked_at_is_said_and_not_marked(finding, monkeypatch, capsys, status):
    fill(finding, a=20)
    finding.change_rows("UPDATE file SET status = ? WHERE filename = '0'", [status])
    real = Entry.lstat

    def lstat(file):
        if file.rel == "a/0":
            raise OSError(5, "Input/output error")
        return real(file)

    monkeypatch.setattr(Entry, "lstat", lstat)
    assert inside(finding, share=0) == 1
    assert finding.counts()["failed"] == 1
    assert "a/0: cannot be looked at: Input/output error" in capsys.readouterr().err
    assert wrong(finding) == ([] if status == "STORED" else [("0", status)])


class TestFinderWithoutPasses:
    def intend(self, finding, name):
        row = FileRow("", "a", 4, "blake2b:00", 0, 0)
        with finding.database():
            connect.write(lambda: File.intend(str(finding.storage), name, [row]))

    def test_what_it_left_on_the_way_is_said(self, finding, capsys):
        self.intend(finding, "before")
        assert inside(finding) == 1
        said = capsys.readouterr().err
        assert "finder.before: 1 file is on its way since a pass long ago" in said
        assert "run `dbb-finder before` once more" in said

    def test_a_pass_of_that_name_helps(self, finding, capsys):
        self.intend(finding, "before")
        finding.put("a")
        renamed = finding.finder
        finding.change(name="before")
        assert finding.run() == 0
        finding.finder = renamed
        assert inside(finding) == 0
        assert finding.rows() == [("", "a", "STORED")]

    def test_one_that_makes_passes_is_let_work(self, finding, capsys):
        assert finding.run() == 0
        self.intend(finding, "latiss")
        assert inside(finding) == 0
        finding.change_rows("UPDATE run SET started = '2020-01-01 00:00:00'")
        assert inside(finding) == 1
        assert "since its pass of 2020-01-01 00:00 UTC" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["sqlite"])
def test_audit_that_has_no_time_for_all_of_it_says_what_is_never_looked_at(
    finding, monkeypatch, capsys
):
    fill(finding, a=1)
    now = [0.0]
    with monkeypatch.context() as patched:
        patched.setattr(context, "time", clock(lambda: now[0]))
        between(patched, rows, "_compare_row", lambda: now.append(now.pop() + 100))
        assert inside(finding, max_time=60) == 0
    said = capsys.readouterr().err
    for word in ("--max-time", "files without a row", "checksums"):
        assert word in said
    assert inside(finding, max_time=3600) == 0
    assert "over" in capsys.readouterr().err


def test_no_more_is_read_than_the_rate_allows(finding, monkeypatch):
    fill(finding, a=10)
    size = sum(len(content) for content in tree(finding.storage).values())
    finding.change(audit_rate=2)
    now, naps = [1000.0], []

    def sleep(seconds):
        naps.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(content, "time", clock(lambda: now[0], sleep))
    assert inside(finding, share=1) == 0
    assert now[0] - 1000 == size / 2
    assert max(naps) <= 0.5
