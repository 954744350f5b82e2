"""A file system to which `A` and `a` are one name: no file of the one replaces one of the other.

Tried where such a one can be mounted (lowntfs-3g, FUSE), which not every kernel lets root do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.reasons import REASON
from dbbbatch.config import load
from dbbbatch.files import checksum, names, place, temporary
from dbbbatch.files.tree import outside
from tests.support import finding
from tests.support.disks import folding_disk
from tests.support.finding import Finding
from tests.support.handing import make_pass, rows, statuses, wait_over
from tests.support.site import Site, tree


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with folding_disk(tmp_path / "disk") as made:
        yield made


# ---- placing -------------------------------------------------------------------------------------


@pytest.fixture(params=["rename", "link"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "link":
        monkeypatch.setattr("dbbbatch.files.tree.rename", lambda *_: False)


@pytest.mark.usefixtures("how")
def test_placing_refuses_a_name_that_is_taken_in_other_letters(disk: Path) -> None:
    (disk / "a.fits").write_text("old")
    (disk / "new").write_text("new")
    with pytest.raises(FileExistsError):
        place.place(outside(str(disk / "new")), outside(str(disk / "A.FITS")))
    assert tree(disk) == {"a.fits": b"old", "new": b"new"}


@pytest.mark.usefixtures("how")
def test_copying_refuses_a_name_that_is_taken_in_other_letters(disk: Path, tmp_path: Path) -> None:
    (disk / "a.fits").write_text("old")
    (tmp_path / "new").write_text("new")
    with pytest.raises(FileExistsError):
        place.copy_into(outside(str(tmp_path / "new")), outside(str(disk / "A.FITS")))
    assert tree(disk) == {"a.fits": b"old"}


@pytest.mark.usefixtures("how")
@pytest.mark.parametrize("further_link", [False, True])
def test_placing_a_file_under_its_own_name_in_other_letters_keeps_it(
    disk: Path, further_link: bool
) -> None:
    (disk / "a.fits").write_text("content")
    if further_link:
        os.link(disk / "a.fits", disk / "elsewhere")
    with pytest.raises(FileExistsError):
        place.place(outside(str(disk / "a.fits")), outside(str(disk / "A.FITS")))
    assert (disk / "a.fits").read_text() == "content"


@pytest.mark.usefixtures("how")
def test_placing_takes_the_next_version_of_a_name_that_is_taken_in_other_letters(
    disk: Path,
) -> None:
    (disk / "a.fits").write_text("old")
    (disk / "new").write_text("new")
    assert (
        place.place_versioned(outside(str(disk / "new")), outside(str(disk / "A.fits")))
        == "A.fits.~1~"
    )
    assert tree(disk) == {"a.fits": b"old", "a.fits.~1~": b"new"}


# ---- a finder's storage --------------------------------------------------------------------------


@pytest.fixture
def apart(settings: load.Settings, disk: Path, tmp_path: Path) -> Finding:
    """Return a finder whose storage folds, and whose source does not."""
    return Finding(settings, disk, tmp_path / "source", min_free=0)


@pytest.fixture(params=["source apart", "source there too"])
def either(
    request: pytest.FixtureRequest, settings: load.Settings, disk: Path, tmp_path: Path
) -> Finding:
    """Return a finder whose storage folds; its source is elsewhere, or there too."""
    source = tmp_path / "source" if request.param == "source apart" else None
    return Finding(settings, disk, source, min_free=0)


def agrees(storing: Finding) -> None:
    """Each row has a file of its own with the content that it tells of, and each file has a row."""
    found = set()
    for relpath, filename, recorded in storing.rows("SELECT relpath, filename, checksum FROM file"):
        path = str(storing.storage / names.join(relpath, filename))
        algorithm, digest = checksum.parse(recorded)
        assert checksum.compute(outside(path), [algorithm]) == {algorithm: digest}
        found.add(os.stat(path).st_ino)
    assert storing.rows("SELECT count(*), count(DISTINCT status) FROM file") == [(len(found), 1)]
    assert len(finding.tree(storing.storage)) == len(found)


def contents(*directories: Path) -> list[bytes]:
    """Return what is in all files of some directories, names aside."""
    return sorted(content for path in directories for content in finding.tree(path).values())


def test_other_content_under_a_name_that_is_taken_in_other_letters_is_quarantined(
    either: Finding, capsys: pytest.CaptureFixture[str]
) -> None:
    either.put("night/A.fits", b"first")
    assert either.run() == 0
    either.put("night/a.fits", b"other")
    assert either.run() == 1
    assert contents(either.storage) == [b"first"]
    assert contents(either.quarantine) == [b"other"]
    assert contents(either.source) == []
    agrees(either)
    ((reason,),) = either.rows("SELECT reason FROM quarantine")
    assert "storage" in reason
    assert "name" in reason
    assert f"in quarantine: {reason}" in capsys.readouterr().err
    (beside,) = either.quarantine.rglob(f"*{REASON}")
    assert beside.read_text() == f"{reason}\n"


@pytest.mark.parametrize("alternative", ["keep", "delete", "quarantine"])
def test_the_same_content_under_a_name_in_other_letters_is_stored_once(
    either: Finding, alternative: str
) -> None:
    either.change(alternative=alternative)
    either.put("night/A.fits", b"first")
    assert either.run() == 0
    either.put("night/a.fits", b"first")
    either.run()
    either.run()
    assert contents(either.storage) == [b"first"]
    agrees(either)


def test_the_same_content_below_a_directory_in_other_letters_is_stored_once(
    apart: Finding,
) -> None:
    apart.put("night/a.fits", b"first")
    assert apart.run() == 0
    apart.put("NIGHT/a.fits", b"first")
    apart.run()
    apart.run()
    assert contents(apart.storage) == [b"first"]
    agrees(apart)


@pytest.mark.parametrize("second", ["night/B.fits", "NIGHT/b.fits"])
@pytest.mark.parametrize("same", [False, True])
def test_of_two_that_come_at_one_time_one_is_stored_and_none_is_lost(
    apart: Finding, second: str, same: bool
) -> None:
    apart.put("night/b.fits", b"one")
    apart.put(second, b"one" if same else b"two")
    came = contents(apart.source)
    apart.run()
    assert len(apart.rows()) == len(contents(apart.storage)) == 1
    assert contents(apart.storage, apart.source, apart.quarantine) == came
    agrees(apart)
    # Whichever was not stored is looked at once more, and then a person is told of it.
    assert apart.run() == 1
    assert len(contents(apart.storage)) == len(contents(apart.quarantine)) == 1
    assert contents(apart.storage, apart.quarantine) == came
    assert len(apart.rows("SELECT reason FROM quarantine")) == 1
    agrees(apart)
    assert apart.run() == 0
    assert not any(temporary.TEMPORARY_PREFIX in rel for rel in finding.tree(apart.storage))


@pytest.mark.parametrize("same", [False, True])
def test_of_two_that_come_by_two_names_of_one_directory_none_is_lost(
    settings: load.Settings, tmp_path: Path, other_file_system: Path, same: bool
) -> None:
    # The same on any file system: a link is another name of a directory of storage.
    storing = Finding(settings, tmp_path, other_file_system, min_free=0)
    (storing.storage / "night").mkdir()
    (storing.storage / "linked").symlink_to("night")
    storing.put("night/b.fits", b"one")
    storing.put("linked/b.fits", b"one" if same else b"two")
    came = contents(storing.source)
    storing.run()
    assert len(storing.rows()) == len(contents(storing.storage)) == 1
    assert contents(storing.storage, storing.source, storing.quarantine) == came
    agrees(storing)


def test_names_that_are_not_alike_are_stored_as_everywhere(either: Finding) -> None:
    files = {"night/a.fits": b"a", "Night 2/B.fits": b"b", "night 2/c.fits": b"c"}
    for rel, content in files.items():
        either.put(rel, content)
    assert either.run() == 0
    assert contents(either.storage) == [b"a", b"b", b"c"]
    assert contents(either.source, either.quarantine) == []
    agrees(either)


# ---- the far end of a handoff --------------------------------------------------------------------

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}


@pytest.fixture
def far(site: Site, disk: Path) -> Site:
    """Return a site whose endpoint has its staging and buffer on the disk that folds."""
    site.staging, site.far_buffer = disk / "staging", disk / "buffer"
    site.staging.mkdir()
    site.far_buffer.mkdir()
    return site.write(handoff=KEYS)


def test_a_name_that_the_endpoint_has_in_other_letters_waits(far: Site) -> None:
    far.put("night/A.fits", b"old", far.far_buffer)
    far.put("night/a.fits", b"new")
    assert make_pass(far) == 0
    assert list(tree(far.far_buffer).values()) == [b"old"]
    assert tree(far.buffer) == {"night/a.fits": b"new"}
    ((status, attempts, why),) = rows(far, "status, attempts, error")
    assert (status, attempts) == ("FOUND", 0)
    assert "another content" in why
    (far.far_buffer / "night" / "A.fits").unlink()  # the endpoint's finder
    wait_over(far)
    assert make_pass(far) == 0
    assert list(tree(far.far_buffer).values()) == [b"new"]
    assert tree(far.holding) == {"night/a.fits": b"new"}


def test_the_same_content_that_the_endpoint_has_in_other_letters_is_delivered(far: Site) -> None:
    far.put("night/A.fits", b"same", far.far_buffer)
    far.put("night/a.fits", b"same")
    assert make_pass(far) == 0
    assert list(tree(far.far_buffer).values()) == [b"same"]
    assert tree(far.holding) == {"night/a.fits": b"same"}


@pytest.mark.parametrize("second", ["night/B.fits", "NIGHT/b.fits"])
def test_of_two_that_are_sent_at_one_time_both_arrive_one_after_the_other(
    far: Site, second: str
) -> None:
    sent = {"night/b.fits": b"one", second: b"two"}
    far.put_all(sent)
    assert make_pass(far) == 0
    (first,) = tree(far.far_buffer).values()
    assert tree(far.buffer) | tree(far.holding) == sent
    assert list(tree(far.holding).values()) == [first]
    assert set(rows(far, "attempts")) == {0}
    for path in far.far_buffer.rglob("*.fits"):
        path.unlink()  # the endpoint's finder
    wait_over(far)
    assert make_pass(far) == 0
    assert {first, *tree(far.far_buffer).values()} == {b"one", b"two"}
    assert tree(far.holding) == sent
    assert set(statuses(far).values()) == {"HELD"}
