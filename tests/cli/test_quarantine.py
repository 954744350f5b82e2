"""`dbb quarantine`: which files were quarantined, and what becomes of them."""

import json
import os

import pytest

from dbbbatch.areas.release import Releases
from dbbbatch.files import place
from dbbbatch.files.lock import Lock
from dbbbatch.files.roots import Roots
from dbbbatch.passes import runner
from dbbbatch.passes.finder.scan import FinderWork
from tests.support.clocks import set_clock_of_files
from tests.support.site import Site


@pytest.fixture
def conflict(site: Site) -> Site:
    """A site whose storage holds a file of which another content is in quarantine."""
    (site.storage / ".dbb-storage").touch()
    site.put("2026/a.fits", b"first", site.far_buffer)
    assert site.run("dbb-finder").code == 0
    site.put("2026/a.fits", b"corrected", site.far_buffer)
    assert site.run("dbb-finder").code == 1
    return site


def releases(settings):
    return Releases(settings.finder["latiss"], Roots())


def waiting(site):
    return json.loads(site.run("dbb", "quarantine", "list", "--json").out)


def release(site, *options, match="2026/a.fits"):
    return site.run("dbb", "quarantine", "release", "finder.latiss", "--match", match, *options)


def test_list_says_what_waits_and_why(conflict):
    ran = conflict.run("dbb", "quarantine", "list", "finder.latiss")
    assert ran.code == 0
    assert "2026/a.fits: storage holds other content under this name" in ran.out
    (row,) = waiting(conflict)
    assert row["label"] == "finder.latiss"
    assert row["path"] == str(conflict.storage_quarantine / "2026/a.fits")


def test_reason_stands_beside_the_file(conflict):
    reason = conflict.storage_quarantine / "2026/a.fits.reason"
    assert reason.read_text() == "storage holds other content under this name\n"
    assert sorted(os.listdir(reason.parent)) == ["a.fits", "a.fits.reason"]


@pytest.mark.promise
@pytest.mark.parametrize("name", ["a-v2.fits", "2026/a-v2.fits"])
def test_corrected_version_is_accepted_under_a_new_name(conflict, name):
    ran = release(conflict, "--as-new", name)
    assert (ran.code, ran.err) == (0, "")
    assert conflict.run("dbb-finder").code == 0
    assert (conflict.storage / "2026/a.fits").read_bytes() == b"first"
    assert (conflict.storage / "2026/a-v2.fits").read_bytes() == b"corrected"
    assert waiting(conflict) == []


def test_file_comes_back_when_the_reason_is_gone(conflict):
    (conflict.storage / "2026/a.fits").unlink()
    assert conflict.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0
    assert release(conflict).code == 0
    assert conflict.run("dbb-finder").code == 0
    assert (conflict.storage / "2026/a.fits").read_bytes() == b"corrected"


@pytest.mark.promise
def test_name_that_is_taken_is_refused(conflict):
    conflict.put("2026/b.fits", b"another", conflict.far_buffer)
    assert release(conflict, "--as-new", "b.fits").code == 64
    assert (conflict.far_buffer / "2026/b.fits").read_bytes() == b"another"
    assert len(waiting(conflict)) == 1


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", ["/etc/a", "../a", "a/", ".dbb~x"])
def test_names_that_lead_astray_are_refused(conflict, name):
    assert release(conflict, "--as-new", name).code == 64
    assert len(waiting(conflict)) == 1


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("link/a.fits", "link is a symbolic link"),
        ("b.tmp", "exclude"),
        ("engineering/b.fits", "exclude"),
        (".dbb~x/b.fits", "unfinished copies"),
    ],
)
def test_names_under_which_no_pass_would_find_it_are_refused(conflict, name, says):
    conflict.write(finder={"exclude": [r"\.tmp$", "^engineering/$"]})
    (conflict.root / "elsewhere").mkdir()
    (conflict.far_buffer / "link").symlink_to(conflict.root / "elsewhere")
    ran = release(conflict, "--as-new", name)
    assert (ran.code, says in ran.err) == (64, True)
    assert len(waiting(conflict)) == 1
    assert list((conflict.root / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_name_by_which_storage_is_known_is_refused(conflict):
    conflict.put("top", b"other content", conflict.storage)
    conflict.put("top", b"data", conflict.far_buffer)
    assert conflict.run("dbb-finder").code == 1
    ran = release(conflict, "--as-new", ".dbb-storage", match="top")
    assert (ran.code, "sentinel" in ran.err) == (64, True)


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_directory_that_became_a_link_is_not_followed(conflict):
    (conflict.far_buffer / "2026").rename(conflict.root / "elsewhere")
    (conflict.far_buffer / "2026").symlink_to(conflict.root / "elsewhere")
    ran = release(conflict)
    assert (ran.code, "2026 is a symbolic link" in ran.err) == (64, True)
    assert len(waiting(conflict)) == 1
    assert release(conflict, "--as-new", "2027/a.fits").code == 0


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("mount_point", [False, True])
def test_quarantine_that_is_not_mounted_is_waited_for(conflict, mount_point):
    conflict.storage_quarantine.rename(conflict.root / "away")
    if mount_point:
        (conflict.storage_quarantine / "lost+found").mkdir(parents=True)
    ran = release(conflict)
    assert (ran.code, "is it mounted?" in ran.err) == (75, True)
    assert len(waiting(conflict)) == 1


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_two_releases_are_not_at_work_at_once(conflict):
    lock = Lock(conflict.state / "locks", "release.finder.latiss")
    lock.acquire()
    ran = release(conflict, "--as-new", "b.fits")
    assert (ran.code, "is at work" in ran.err) == (75, True)
    lock.release()
    assert release(conflict, "--as-new", "b.fits").code == 0


@pytest.mark.parametrize("backend", ["sqlite"])
class TestCopyThatWasCutOff:
    """A release across file systems was killed while it copied."""

    @pytest.fixture
    def cut_off(self, conflict, other_file_system, monkeypatch):
        from dbbbatch.database import connect
        from dbbbatch.database.models.quarantine import Quarantine

        conflict.write(finder={"source": other_file_system})
        settings = conflict.settings()
        connect.connect(settings.database)
        monkeypatch.setattr(place, "sync_file", lambda path: os._exit(0))
        child = os.fork()
        if child == 0:
            try:
                connect.proxy.obj = None
                connect.connect(settings.database)
                releases(settings).release(Quarantine.get(), "b.fits")
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        monkeypatch.undo()
        connect.disconnect()
        assert len(os.listdir(other_file_system / "2026")) == 1
        return conflict

    def later(self, cut_off, monkeypatch, seconds):
        """Make a pass of the finder so much later."""
        settings = cut_off.settings()
        section = settings.finder["latiss"]
        set_clock_of_files(monkeypatch, seconds)
        assert runner.run_pass(FinderWork(section), settings, section, runner.Options()) == 0

    def test_is_removed_by_a_pass_when_nobody_is_at_work_on_it(
        self, cut_off, other_file_system, monkeypatch
    ):
        self.later(cut_off, monkeypatch, 3000)
        assert len(os.listdir(other_file_system / "2026")) == 1
        self.later(cut_off, monkeypatch, 4000)
        assert os.listdir(other_file_system / "2026") == []
        assert len(waiting(cut_off)) == 1

    def test_is_removed_by_a_release_under_another_name(self, cut_off, other_file_system):
        assert release(cut_off, "--as-new", "c.fits").code == 0
        assert os.listdir(other_file_system / "2026") == ["c.fits"]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_new_name_goes_with_one_file(conflict):
    conflict.put("2026/a.fits", b"again", conflict.far_buffer)
    conflict.run("dbb-finder")
    assert release(conflict, "--as-new", "b.fits", match="*").code == 64
    assert len(waiting(conflict)) == 2


@pytest.mark.promise
def test_release_that_was_killed_is_finished_by_the_next(conflict, monkeypatch):
    from dbbbatch.database import connect
    from dbbbatch.database.models.quarantine import Quarantine

    settings = conflict.settings()
    connect.connect(settings.database)
    monkeypatch.setattr(Quarantine, "released", lambda self, when: exec("raise SystemExit"))
    with pytest.raises(SystemExit):
        releases(settings).release(Quarantine.get(), "b.fits")
    monkeypatch.undo()
    path = str(conflict.far_buffer / "2026/b.fits")
    assert releases(settings).release(Quarantine.get(), "b.fits") == path
    connect.disconnect()
    assert waiting(conflict) == []


def test_list_marks_what_is_no_longer_there(conflict):
    (row,) = waiting(conflict)
    assert row["is_there"] is True
    os.unlink(row["path"])
    (row,) = waiting(conflict)
    assert row["is_there"] is False
    ran = conflict.run("dbb", "quarantine", "list")
    assert f"{row['path']} (it is not there): storage holds other content" in ran.out
    ran = release(conflict)
    assert ran.code == 64
    assert "dbb ignore finder.latiss --status QUARANTINED" in ran.err


def test_what_a_finder_quarantined_is_closed_and_left_there(conflict):
    ran = conflict.run("dbb", "ignore", "finder.latiss", "--reason", "other content")
    assert ran.out.splitlines() == [
        "1 file of finder.latiss is ignored",
        f"those in {conflict.storage_quarantine} stay there; remove them by hand",
    ]
    assert waiting(conflict) == []
    assert (conflict.storage_quarantine / "2026/a.fits").read_bytes() == b"corrected"
    assert conflict.run("dbb-finder").code == 0
    history = conflict.run("dbb", "history", "2026/a.fits").out
    assert "ignored" in history
    assert "released" not in history


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_closes_nothing(conflict):
    ran = conflict.run("dbb", "ignore", "finder.latiss", "--match", "*", "--dry-run")
    assert "\n1 file of finder.latiss would be ignored" in ran.out
    assert len(waiting(conflict)) == 1


def test_reason_may_be_a_pattern(conflict):
    for text, count in (("storage*name", 1), ("*", 1), ("storage name", 0)):
        ran = conflict.run("dbb", "quarantine", "list", "--reason", text, "--json")
        assert len(json.loads(ran.out)) == count


def test_release_across_file_systems_copies(conflict, other_file_system):
    conflict.write(finder={"source": other_file_system})
    assert release(conflict).code == 0
    assert (other_file_system / "2026/a.fits").read_bytes() == b"corrected"
    assert os.listdir(conflict.storage_quarantine / "2026") == []


@pytest.mark.promise
def test_file_that_is_named_like_a_reason_is_not_removed(conflict):
    for name in ("b", "b.reason"):
        conflict.put(f"2026/{name}", b"other content", conflict.storage)
        conflict.put(f"2026/{name}", b"data", conflict.far_buffer)
    assert conflict.run("dbb-finder").code == 1
    assert release(conflict, "--as-new", "c", match="2026/b").code == 0
    assert (conflict.storage_quarantine / "2026/b.reason.~1~").read_bytes() == b"data"
