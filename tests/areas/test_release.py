"""Files in quarantine: listed with their reason, and put back where they came from."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.quarantine import QuarantineArea
from dbbbatch.areas.reasons import REASON
from dbbbatch.areas.release import Releases
from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater, UsageError
from dbbbatch.files import checksum, place
from dbbbatch.files.roots import Roots
from dbbbatch.files.temporary import temporary_path
from dbbbatch.files.tree import Entry, Tree
from tests.support.disks import behind_a_link, exchange
from tests.support.finding import Finding
from tests.support.handing import REFUSING, change, make_pass, rows, statuses
from tests.support.scripts import Ran
from tests.support.site import Site, tree

KEYS = {"min_free": 0, "max_attempts": 1}


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site with two files in the quarantine of its handoff."""
    site.write(handoff=KEYS, endpoint=REFUSING)
    for rel in ("a/b", "c"):
        site.put(rel)
        make_pass(site)
    assert set(statuses(site).values()) == {"QUARANTINED"}
    return site.write(handoff=KEYS)


def release(site: Site, match: str, *options: str) -> Ran:
    return site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", match, *options)


def test_the_reason_stands_beside_the_file(site: Site) -> None:
    reason = (site.quarantine / "a" / "b.reason").read_text()
    assert reason == "gave up after attempt 1: sh: exit code 1\n"


@pytest.mark.promise
class TestNamesOfReasons:
    """A file of somebody's whose name is that of another one's reason."""

    @pytest.fixture
    def site(self, site: Site) -> Site:
        site.write(handoff=KEYS, endpoint=REFUSING)
        site.put("b.reason", b"a night's only copy")
        make_pass(site)
        site.put("b")
        make_pass(site)
        return site

    def test_it_is_not_taken_for_a_reason(self, site: Site) -> None:
        found = tree(site.quarantine)
        assert found["b"] == b"data"
        assert found["b.reason"].startswith(b"gave up")
        assert found["b.reason.~1~"] == b"a night's only copy"

    def test_it_stays_when_the_other_one_is_released(self, site: Site) -> None:
        assert release(site, "b").code == 0
        assert set(tree(site.quarantine)) >= {"b.reason.~1~", "b.reason.~1~.reason"}
        assert "b.reason" not in tree(site.quarantine)
        assert release(site, "b.reason").code == 0
        assert tree(site.buffer) == {"b": b"data", "b.reason": b"a night's only copy"}

    def test_it_stays_where_an_earlier_version_put_it(self, site: Site) -> None:
        """Even if its content is what would have been written there."""
        (site.quarantine / "b.reason.~1~.reason").unlink()
        copy = (site.quarantine / "b.reason").read_bytes()
        (site.quarantine / "b.reason.~1~").write_bytes(copy)
        os.rename(site.quarantine / "b.reason.~1~", site.quarantine / "b.reason")
        path = str(site.quarantine / "b.reason")
        change(site, "UPDATE quarantine SET path = ? WHERE filename = 'b.reason'", path)
        assert release(site, "b").code == 0
        assert tree(site.quarantine)["b.reason"] == copy

    def test_what_a_person_put_in_the_place_of_a_reason_stays(self, site: Site) -> None:
        (site.quarantine / "b.reason").write_bytes(b"my notes")
        assert release(site, "b").code == 0
        assert tree(site.quarantine)["b.reason"] == b"my notes"


def test_a_name_beside_which_something_stands_is_not_used(site: Site) -> None:
    (site.quarantine / "d.reason").write_bytes(b"my notes")
    site.write(handoff=KEYS, endpoint=REFUSING)
    site.put("d")
    make_pass(site)
    found = tree(site.quarantine)
    assert (found["d.~1~"], found["d.reason"]) == (b"data", b"my notes")
    assert found["d.~1~.reason"].startswith(b"gave up")
    assert found["d.~1~.reason"].endswith(b'\nIts name was "d"\n')
    assert release(site, "d").code == 0
    assert set(tree(site.quarantine)) == found.keys() - {"d.~1~", "d.~1~.reason"}


def test_a_file_that_comes_back_after_a_release_was_cut_off_has_its_old_name(site: Site) -> None:
    os.rename(site.quarantine / "c", site.buffer / "c")
    make_pass(site)
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason", "c", "c.reason"}


def test_a_list_tells_the_reason(site: Site) -> None:
    out = site.run("dbb", "quarantine", "list").out
    assert f"handoff.latiss  {site.quarantine}/a/b: gave up after attempt 1" in out


def test_a_list_for_programs(site: Site) -> None:
    found = json.loads(site.run("dbb", "quarantine", "list", "--match", "c", "--json").out)
    assert [(row["label"], row["filename"]) for row in found] == [("handoff.latiss", "c")]


def test_a_quarantine_under_another_path_is_named_as_the_reason(site: Site) -> None:
    site.write(handoff=KEYS | {"quarantine": site.root / "elsewhere"})
    (site.root / "elsewhere").mkdir()
    ran = release(site, "c")
    assert ran.code == 64
    assert f"is not below {site.root}/elsewhere (if the configuration had another" in ran.err
    site.write(handoff=KEYS)
    assert release(site, "c").code == 0


def test_a_released_file_is_sent_as_if_it_were_new(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "a/*")
    assert ran.out == "1 file of handoff.latiss is back\n"
    assert set(tree(site.quarantine)) == {"c", "c.reason"}
    make_pass(site)
    assert statuses(site) == {"a/b": "HELD", "c": "QUARANTINED"}


def test_a_file_that_is_released_under_a_new_name_waits_no_longer_under_its_old_one(
    site: Site,
) -> None:
    assert release(site, "a/b", "--as-new", "new/d").code == 0
    assert statuses(site)["a/b"] == "IGNORED"
    assert "released as new/d" in rows(site, "error")
    make_pass(site)
    assert statuses(site) == {"a/b": "IGNORED", "c": "QUARANTINED", "new/d": "HELD"}


def test_a_release_by_reason(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--reason", "exit code 1")
    assert ran == (0, "2 files of handoff.latiss are back\n", "")


def test_a_release_never_overwrites(site: Site) -> None:
    site.put("c", b"the next version")
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*")
    assert ran.code == 64
    assert "another file has this name" in ran.err
    assert tree(site.buffer) == {"a/b": b"data", "c": b"the next version"}
    assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == ["c"]


def test_a_release_that_was_cut_off_is_finished(site: Site) -> None:
    os.rename(site.quarantine / "c", site.buffer / "c")
    site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "c")
    make_pass(site)
    assert statuses(site)["c"] == "HELD"


def cut_off(site: Site) -> None:
    """Leave of a release what is recorded before the file is moved."""
    back = str(site.buffer / "c")
    change(site, "UPDATE quarantine SET released_as = ? WHERE filename = 'c'", back)


@pytest.mark.promise
@pytest.mark.parametrize("move", [os.rename, os.link, shutil.copy2])
def test_a_release_that_was_cut_off_is_finished_by_a_pass(
    site: Site, move: Callable[..., object]
) -> None:
    cut_off(site)
    move(site.quarantine / "c", site.buffer / "c")
    make_pass(site)
    assert statuses(site) == {"a/b": "QUARANTINED", "c": "HELD"}
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason"}
    assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == ["b"]


@pytest.mark.promise
def test_a_file_that_was_not_moved_waits_on(site: Site) -> None:
    cut_off(site)
    make_pass(site)
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason", "c", "c.reason"}
    assert len(rows(site, "filename", "quarantine WHERE released_at IS NULL")) == 2


@pytest.mark.promise
def test_a_quarantine_that_is_not_mounted_was_not_emptied_by_a_release(site: Site) -> None:
    cut_off(site)
    site.quarantine.rename(site.root / "unmounted")
    site.quarantine.mkdir()
    make_pass(site)
    assert len(rows(site, "filename", "quarantine WHERE released_at IS NULL")) == 2


@pytest.mark.promise
def test_a_file_behind_a_link_is_not_taken_for_released(site: Site) -> None:
    """Its copy is in the buffer already, and the release was cut off before it was removed."""
    back = str(site.buffer / "a" / "b")
    change(site, "UPDATE quarantine SET released_as = ? WHERE filename = 'b'", back)
    (site.buffer / "a").mkdir(exist_ok=True)
    shutil.copy2(site.quarantine / "a" / "b", back)
    with behind_a_link(site.quarantine / "a"):
        release(site, "a/b")
        assert len(rows(site, "filename", "quarantine WHERE released_at IS NULL")) == 2
    assert release(site, "a/b").code == 0
    assert set(tree(site.quarantine)) == {"c", "c.reason"}
    assert tree(site.buffer) == {"a/b": b"data"}


class TestIgnored:
    """A person disposes of a quarantined file."""

    def test_must_be_asked_for(self, site: Site) -> None:
        ran = site.run("dbb", "ignore", "handoff.latiss", "--match", "*")
        assert ran.out == "0 files of handoff.latiss are ignored\n"
        assert set(statuses(site).values()) == {"QUARANTINED"}

    def test_it_leaves_the_list_and_stays_where_it_is(self, site: Site) -> None:
        before = tree(site.quarantine)
        ran = ignore(site, "c", "--remark", "a test image")
        assert ran == (
            0,
            "1 file of handoff.latiss is ignored\n"
            f"those in {site.quarantine} stay there; remove them by hand\n",
            "",
        )
        assert statuses(site) == {"a/b": "QUARANTINED", "c": "IGNORED"}
        assert tree(site.quarantine) == before
        found = json.loads(site.run("dbb", "quarantine", "list", "--json").out)
        assert [row["filename"] for row in found] == ["b"]
        assert "a test image" in site.run("dbb", "history", "c").out
        make_pass(site)
        assert statuses(site)["c"] == "IGNORED"

    def test_one_that_is_gone_is_closed_too(self, site: Site) -> None:
        (site.quarantine / "c").unlink()
        assert ignore(site, "c").out.startswith("1 file ")
        assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == ["b"]

    def test_one_of_which_the_handoff_knows_nothing_is_closed_too(self, site: Site) -> None:
        """As after a rebuild."""
        change(site, "DELETE FROM transfer_attempt")
        change(site, "DELETE FROM handoff_file")
        assert ignore(site, "*").out.startswith("2 files")
        assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == []

    def test_goes_with_other_statuses(self, site: Site) -> None:
        site.put("d")
        site.write(handoff={**KEYS, "max_attempts": 2}, endpoint=REFUSING)
        make_pass(site)
        assert ignore(site, "*", "--status", "FOUND").out.startswith("3 files")
        assert set(statuses(site).values()) == {"IGNORED"}


def ignore(site: Site, match: str, *options: str) -> Ran:
    which = ("--status", "QUARANTINED", "--match", match)
    return site.run("dbb", "ignore", "handoff.latiss", *which, *options)


def test_which_files_must_be_said(site: Site) -> None:
    assert site.run("dbb", "quarantine", "release", "handoff.latiss").code == 64


def test_a_dry_run_releases_nothing(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*", "--dry-run")
    assert f"{site.quarantine}/c" in ran.out.splitlines()
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason", "c", "c.reason"}


@pytest.mark.promise
def test_a_file_whose_name_is_exchanged_while_another_one_is_copied_stays(
    settings: Settings, tmp_path: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = Finding(settings, tmp_path, other_file_system)
    finding.put("a", b"one", finding.storage)
    finding.put("a", b"ours")
    assert finding.run() == 1
    aside, theirs = finding.quarantine / "a", finding.quarantine.with_name("theirs")
    theirs.write_bytes(b"their file")
    exchange(aside, theirs)

    def copy_beside(*arguments: Any, real: Any = place.copy_beside, **more: Any) -> Any:
        sums = real(*arguments, **more)
        exchange(aside, theirs)
        return sums

    with finding.database(), closing(Roots()) as roots:
        releases, row = Releases(finding.finder, roots), Quarantine.get()
        with monkeypatch.context() as patched:
            patched.setattr(place, "copy_beside", copy_beside)
            with pytest.raises(TryLater, match="changed"):
                releases.release(row)
        assert (aside.read_bytes(), theirs.read_bytes()) == (b"ours", b"their file")
        assert tree(finding.source) == {}
        releases.release(row)
    assert tree(finding.source) == {"a": b"ours"}
    assert tree(finding.quarantine) == {}


class Killed(BaseException):
    """The pass is no more."""


class Calls:
    """What release and pass call of disk and database; before one of them something happens.

    Parameters
    ----------
    monkeypatch : `pytest.MonkeyPatch`
    """

    CALLS = (
        *((Entry, name) for name in ("move_to", "unlink", "lstat")),
        *((place, name) for name in ("copy_beside", "sync_file")),
        (checksum, "compute"),
        (Tree, "sync"),
        (connect, "write"),
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self._happens: Callable[[], object] = lambda: None
        for owner, name in self.CALLS:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    self._left = None
                    self._happens()
            return real(*arguments, **more)

        return call

    @contextmanager
    def before(self, number: int, happens: Callable[[], object]) -> Iterator[list[bool]]:
        """Let something happen before the call of this number; the list is true if it came."""
        outer = self._left, self._happens
        self._left, self._happens = number, happens
        came: list[bool] = []
        try:
            yield came
        finally:
            if self._left is None:
                came.append(True)
            self._left, self._happens = outer


@pytest.mark.promise
@pytest.mark.parametrize("end", [Killed(), OSError(errno.EIO, "Input/output error")])
def test_a_release_beside_a_pass_that_ends_anywhere_neither_loses_nor_doubles_its_file(
    settings: Settings,
    tmp_path: Path,
    other_file_system: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: BaseException,
) -> None:
    finding = Finding(settings, tmp_path, other_file_system)
    finding.put("a", b"one", finding.storage)
    finding.put("a", b"ours")
    assert finding.run() == 1
    shutil.copytree(finding.quarantine, tmp_path / "before")
    calls = Calls(monkeypatch)

    def places() -> list[Path]:
        """Where the file is, under its own or a hidden name, but for unfinished copies."""
        found = [*finding.quarantine.iterdir(), *finding.source.iterdir()]
        copy = Path(temporary_path(str(finding.source / "a"), "release"))
        return [path for path in found if path.suffix != REASON and path != copy]

    def end_pass() -> None:
        raise end

    def make_pass(last: int) -> bool:
        """Let a pass recover, and end before a call; return whether there was such a call."""
        with closing(Roots()) as roots, calls.before(last, end_pass) as came, suppress(Killed):
            QuarantineArea("archive", finding.finder, roots).recover(pytest.fail)
        return bool(came)

    def tried(number: int, last: int) -> tuple[bool, bool]:
        """Release the file while a pass begins; return whether the two calls came."""
        ended: list[bool] = []

        def copied(self: Releases, *arguments: Any, real: Any = Releases._copy) -> None:
            with calls.before(number, lambda: ended.append(make_pass(last))):
                real(self, *arguments)

        row = Quarantine.get()
        with closing(Roots()) as roots, monkeypatch.context() as patched:
            patched.setattr(Releases, "_copy", copied)
            with suppress(TryLater, UsageError):
                Releases(finding.finder, roots).release(row)
        return bool(ended), any(ended)

    with finding.database():
        number = last = 0
        while True:
            began, ended = tried(number, last)
            waits = Quarantine.get().released_at is None
            where = places()
            assert where == [finding.source / "a"] or (waits and where), (number, last)
            make_pass(1000)
            if Quarantine.get().released_at is None:
                with closing(Roots()) as roots:
                    Releases(finding.finder, roots).release(Quarantine.get())
            assert places() == [finding.source / "a"], (number, last)
            if not began:
                break
            number, last = (number, last + 1) if ended else (number + 1, 0)
            (finding.source / "a").unlink()
            shutil.copytree(tmp_path / "before", finding.quarantine, dirs_exist_ok=True)
            connect.execute("UPDATE quarantine SET released_as = NULL, released_at = NULL")
    assert number > 5
