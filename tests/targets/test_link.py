"""The plugin that links or copies into a second tree, and never overwrites."""

import errno
import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import checksum
from dbbbatch.targets.link import Link
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, StoredFile
from tests.targets.offering import results, started


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "storage").mkdir()
    (tmp_path / "tree").mkdir()
    return tmp_path / "storage"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


def stored(storage: Path, name: str, content: bytes = b"data", **more: Any) -> StoredFile:
    path = storage / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    relpath, _, filename = name.rpartition("/")
    return StoredFile(1, str(path), relpath, filename, len(content), **more)


def ingest(storage: Path, file: StoredFile, **config: Any) -> Outcome:
    with started("link", storage, root=str(storage.parent / "tree"), **config) as plugin:
        (outcome,) = plugin.ingest([file])
    return outcome


HOW = pytest.mark.parametrize("how", ["hard", "symbolic", "copy"])


@HOW
def test_file_appears_under_its_path(storage: Path, tree: Path, how: str) -> None:
    outcome = ingest(storage, stored(storage, "night/x.fits"), how=how)
    assert (outcome.result.value, outcome.message) == ("done", "night/x.fits")
    assert (tree / "night/x.fits").read_bytes() == b"data"


def test_each_way_makes_what_it_says(storage: Path, tree: Path) -> None:
    for how in ("hard", "symbolic", "copy"):
        ingest(storage, stored(storage, how), how=how)
    assert (tree / "hard").samefile(storage / "hard")
    assert os.readlink(tree / "symbolic") == str(storage / "symbolic")
    assert not (tree / "copy").samefile(storage / "copy")


@HOW
def test_second_time_it_is_there_already(storage: Path, how: str) -> None:
    file = stored(storage, "x.fits")
    ingest(storage, file, how=how)
    assert ingest(storage, file, how=how).result.value == "already"


@HOW
@pytest.mark.promise
def test_another_file_is_never_overwritten(storage: Path, tree: Path, how: str) -> None:
    (tree / "x.fits").write_bytes(b"DATA")
    outcome = ingest(storage, stored(storage, "x.fits"), how=how)
    assert (outcome.result.value, outcome.message) == ("failed", "x.fits: another file is there")
    assert (tree / "x.fits").read_bytes() == b"DATA"
    assert os.listdir(tree) == ["x.fits"]


@HOW
@pytest.mark.parametrize("made", ["hard", "symbolic", "copy", "another link"])
def test_same_file_is_there_already_however_it_came(
    storage: Path, tree: Path, how: str, made: str
) -> None:
    file = stored(storage, "x.fits")
    if made == "another link":
        (tree / "x.fits").symlink_to(f"../{storage.name}/x.fits")
    else:
        ingest(storage, file, how=made)
    assert ingest(storage, file, how=how).result.value == "already"
    with started("link", storage, root=str(tree), how=how) as plugin:
        assert list(plugin.known([file])) == [(1, True)]


@HOW
def test_copy_with_the_same_content_is_known_by_its_checksum(
    storage: Path, tree: Path, how: str
) -> None:
    known = {"unheard of": "00", "md5": hashlib.md5(b"data").hexdigest()}
    file = stored(storage, "x.fits", checksums=known)
    (tree / "x.fits").write_bytes(b"data")
    assert ingest(storage, file, how=how).result.value == "already"
    (tree / "x.fits").write_bytes(b"Data")
    assert ingest(storage, file, how=how).result.value == "failed"


@HOW
@pytest.mark.parametrize("what", ["a link", "a dangling link", "a loop", "a FIFO", "a directory"])
def test_what_is_no_such_file_is_another_one(
    storage: Path, tree: Path, how: str, what: str
) -> None:
    file, path = stored(storage, "x.fits"), tree / "x.fits"
    (tree / "other").write_bytes(b"data")
    make: dict[str, Any] = {
        "a link": lambda: path.symlink_to("other"),
        "a dangling link": lambda: path.symlink_to("nowhere"),
        "a loop": lambda: path.symlink_to("x.fits"),
        "a FIFO": lambda: os.mkfifo(path),
        "a directory": path.mkdir,
    }
    make[what]()
    assert ingest(storage, file, how=how).result.value == "failed"
    with started("link", storage, root=str(tree), how=how) as plugin:
        assert list(plugin.known([file])) == [(1, False)]


def test_copy_that_cannot_be_read_for_the_moment_is_no_failure(
    storage: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    file = stored(storage, "x.fits")
    (tree / "x.fits").write_bytes(b"data")
    monkeypatch.setattr(checksum, "compute", refuse)
    with pytest.raises(NotReady, match="Stale"):
        ingest(storage, file)


def test_path_by_date(storage: Path, tree: Path) -> None:
    file = stored(storage, "x.fits", added_on=datetime(2026, 11, 24))
    ingest(storage, file, path="{added_on:%Y/%m/%d}/{stem}-{target}{suffix}")
    assert (tree / "2026/11/24/x-here.fits").exists()


def test_path_by_a_pattern(storage: Path, tree: Path) -> None:
    file = stored(storage, "raw/LATISS_20261124_1.fits")
    pattern = r"(?P<camera>[A-Z]+)_(?P<night>\d{8})"
    ingest(storage, file, pattern=pattern, path="{night}/{camera}/{filename}")
    assert (tree / "20261124/LATISS/LATISS_20261124_1.fits").exists()


def test_file_that_the_pattern_does_not_match_is_invalid(storage: Path) -> None:
    outcome = ingest(storage, stored(storage, "x.log"), pattern="fits$")
    assert outcome.result.value == "never"


def test_path_cannot_leave_the_root(storage: Path, tmp_path: Path) -> None:
    file = stored(storage, "x.fits")
    outcome = ingest(storage, file, path="../{filename}")
    assert outcome.result.value == "never"
    assert not (tmp_path / "x.fits").exists()


@pytest.mark.promise
def test_names_are_data(storage: Path, tree: Path) -> None:
    for name in ("{0}", "{relpath}", "a b", "new\nline", os.fsdecode(b"\xff")):
        assert ingest(storage, stored(storage, name)).result.value == "done"
        assert (tree / name).exists()


@HOW
@pytest.mark.promise
def test_directory_of_the_tree_that_is_a_link_is_none(
    storage: Path, tree: Path, tmp_path: Path, how: str
) -> None:
    (tmp_path / "private").mkdir()
    (tree / "night").symlink_to(tmp_path / "private")
    outcome = ingest(storage, stored(storage, "night/x.fits"), how=how)
    assert (outcome.result.value, outcome.message) == ("failed", "night/x.fits: Not a directory")
    assert os.listdir(tmp_path / "private") == []


@pytest.mark.parametrize("how", ["hard", "copy"])
@pytest.mark.promise
def test_what_lies_behind_a_link_in_storage_is_not_shown(
    storage: Path, tree: Path, tmp_path: Path, how: str
) -> None:
    file = stored(storage, "night/x.fits")
    (storage / "night").rename(tmp_path / "private")
    (storage / "night").symlink_to(tmp_path / "private")
    outcome = ingest(storage, file, how=how)
    assert (outcome.result.value, outcome.message) == ("failed", "night/x.fits: Not a directory")
    assert not (tree / "night/x.fits").exists()


@pytest.mark.promise
def test_directory_that_is_exchanged_before_it_is_durable_gives_no_outcome(
    storage: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchanged(*arguments: Any) -> None:
        make(*arguments)
        (tree / "night").rename(tmp_path / "away")
        (tree / "night").mkdir()

    file, make = stored(storage, "night/x.fits"), Link._make
    monkeypatch.setattr(Link, "_make", exchanged)
    with pytest.raises(NotReady, match="another directory"):
        ingest(storage, file)


def test_path_without_a_directory_in_its_middle(storage: Path, tree: Path) -> None:
    ingest(storage, stored(storage, "x.fits"), path="night/{relpath}/{filename}")
    assert (tree / "night/x.fits").exists()


def test_copy_of_an_altered_file_is_refused(storage: Path, tree: Path) -> None:
    file = stored(storage, "x.fits", checksums={"md5": "0" * 32})
    outcome = ingest(storage, file, how="copy")
    assert outcome.result.value == "failed"
    assert os.listdir(tree) == []


def test_field_without_a_value_is_said_at_the_start(storage: Path) -> None:
    with pytest.raises(Misconfigured, match="night"):
        ingest(storage, stored(storage, "x"), path="{night}/{filename}")


def test_root_that_is_not_there_is_not_mounted(storage: Path, tree: Path) -> None:
    tree.rmdir()
    with pytest.raises(NotReady, match="mounted"):
        ingest(storage, stored(storage, "x"))


@pytest.mark.parametrize("how", ["hard", "copy"])
def test_storage_that_is_away_is_no_fault_of_a_file(storage: Path, how: str) -> None:
    file = stored(storage, "x.fits")
    storage.rename(storage.parent / "away")
    with pytest.raises(NotReady, match="mounted"):
        ingest(storage, file, how=how)


def test_link_to_another_file_system_says_what_to_do(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **more: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Misconfigured, match="symbolic"):
        ingest(storage, stored(storage, "x"))


def test_auditor_is_told_what_the_tree_holds(storage: Path, tree: Path) -> None:
    file = stored(storage, "x.fits")
    with started("link", storage, root=str(tree)) as plugin:
        assert list(plugin.known([file])) == [(1, False)]
        assert results(list(plugin.ingest([file]))) == ["done"]
        assert list(plugin.known([file])) == [(1, True)]
