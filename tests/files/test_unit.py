"""Units of work for other hosts, and what is left of copies that nobody took."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbbatch.files import checksum, place, unit
from dbbbatch.files.tree import Tree
from dbbbatch.files.unit import FileRead, Journal, SharedRoot, Unit, UnitFile, run_unit, why_unfit

OWNER = "finder.latiss"
NAME = os.fsdecode(b"night/a\n\xff")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "source" / "night").mkdir(parents=True)
    (tmp_path / "source" / NAME).write_bytes(b"data")
    with Tree(str(tmp_path / "source")) as tree:
        yield tree


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "storage" / "night").mkdir(parents=True)
    (tmp_path / "storage" / ".sentinel").touch()
    with Tree(str(tmp_path / "storage")) as tree:
        yield tree


def copying(source: Tree, storage: Tree, journal: Journal) -> Unit:
    roots = (SharedRoot.of(source), SharedRoot.of(storage, ".sentinel"))
    files = (UnitFile(NAME, 4, ("md5",)),)
    return Unit(roots, files, journal.order({"night"}, 0o444))


def found(storage: Tree) -> list[str]:
    return sorted(os.listdir(f"{storage.path}/night"))


def test_a_unit_and_its_answer_survive_the_way_to_another_host(source: Tree) -> None:
    sent = Unit((SharedRoot.of(source),), (UnitFile(NAME, 4, ("md5", "sha1")),))
    answer = pickle.loads(pickle.dumps(run_unit(pickle.loads(pickle.dumps(sent)))))
    assert (answer.host, answer.unfit) == (os.uname().nodename, "")
    assert answer.files[0].sums == checksum.compute(source.entry(NAME), ["md5", "sha1"])


@pytest.mark.parametrize(
    ("file", "error"),
    [
        (UnitFile(NAME, 5, ("md5",)), "has another size"),
        (UnitFile("night/gone", 4, ("md5",)), "No such file or directory"),
        (UnitFile("../source/night", 4, ("md5",)), "is no path of a file below it"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_of_that_file(
    source: Tree, file: UnitFile, error: str
) -> None:
    right = UnitFile(NAME, 4, ("md5",))
    answer = run_unit(Unit((SharedRoot.of(source),), (file, right)))
    assert [each.error for each in answer.files] == [error, ""]


def test_a_host_is_unfit_that_sees_another_directory_or_no_sentinel(
    source: Tree, storage: Tree
) -> None:
    other = SharedRoot(storage.path, SharedRoot.of(source).inode)
    assert "sees another directory" in why_unfit([other], unit.__version__)
    missing = SharedRoot.of(storage, ".dbb-storage")
    assert why_unfit([missing], unit.__version__).startswith(
        f"does not see {storage.path}/.dbb-storage"
    )
    assert run_unit(Unit((missing,), ())).unfit
    assert "and not 0.0.9" in why_unfit([], "0.0.9")


def test_a_unit_that_runs_twice_makes_two_copies_of_which_one_is_taken(
    source: Tree, storage: Tree
) -> None:
    journal = Journal(storage, OWNER)
    order = copying(source, storage, journal)
    first, second = (run_unit(order).files[0] for _ in range(2))
    assert found(storage) == sorted([first.copy, second.copy])
    destination = storage.entry(NAME)
    journal.take(source.entry(NAME), second, destination, OWNER)
    place.place_copy(destination, OWNER)
    journal.sweep()
    assert found(storage) == [os.path.basename(NAME)]
    assert sorted(os.listdir(storage.path)) == [".sentinel", "night"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_whose_copy_is_no_longer_wanted_leaves_none(
    source: Tree, storage: Tree, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The next pass of a killed one swept before the copy was made, or while it was."""
    order = copying(source, storage, Journal(storage, OWNER))
    if when == "before":
        Journal(storage, OWNER).sweep()
    else:
        kept = place.sync_file

        def sweep_first(file: place.Entry) -> None:
            kept(file)
            os.rename(file.path, f"{storage.path}/kept")
            Journal(storage, OWNER).sweep()
            os.rename(f"{storage.path}/kept", file.path)

        monkeypatch.setattr(place, "sync_file", sweep_first)
    assert run_unit(order).files == (FileRead(error="no longer wanted"),)
    assert found(storage) == []


def test_the_next_pass_sweeps_what_a_killed_one_left_also_after_a_kill_of_the_sweep(
    source: Tree, storage: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_unit(copying(source, storage, Journal(storage, OWNER)))
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "_remove_copies", lambda *_: None)
        Journal(storage, OWNER).sweep()
    assert len(found(storage)) == 1
    # A further pass with workers of its own begins.
    run_unit(copying(source, storage, Journal(storage, OWNER)))
    assert len(found(storage)) == 1
    Journal(storage, OWNER).sweep()
    assert (found(storage), sorted(os.listdir(storage.path))) == ([], [".sentinel", "night"])


def test_a_sweep_leaves_the_copies_of_another_finder(source: Tree, storage: Tree) -> None:
    run_unit(copying(source, storage, Journal(storage, "finder.other")))
    mine = Journal(storage, OWNER)
    mine.order({"night"})
    mine.sweep()
    assert len(found(storage)) == 1


def test_a_directory_that_is_gone_keeps_no_sweep_from_ending(storage: Tree) -> None:
    journal = Journal(storage, OWNER)
    journal.order({"night", "gone"})
    journal.sweep()
    assert sorted(os.listdir(storage.path)) == [".sentinel", "night"]


class TestTaking:
    @pytest.fixture
    def journal(self, storage: Tree) -> Journal:
        return Journal(storage, OWNER)

    @pytest.fixture
    def read(self, source: Tree, storage: Tree, journal: Journal) -> FileRead:
        return run_unit(copying(source, storage, journal)).files[0]

    def test_a_source_that_changed_since_is_told_apart(
        self, source: Tree, storage: Tree, journal: Journal, read: FileRead
    ) -> None:
        os.utime(f"{source.path}/{NAME}", ns=(1, 1))
        with pytest.raises(checksum.Changed):
            journal.take(source.entry(NAME), read, storage.entry(NAME), OWNER)

    @pytest.mark.parametrize("wrong", ["short", "a link", "two links", "a name of ours"])
    def test_what_is_no_such_copy_is_refused(
        self, source: Tree, storage: Tree, journal: Journal, read: FileRead, wrong: str
    ) -> None:
        path = f"{storage.path}/night/{read.copy}"
        if wrong == "short":
            os.chmod(path, 0o644)
            os.truncate(path, 3)
        elif wrong == "a link":
            os.unlink(path)
            os.symlink(f"{source.path}/{NAME}", path)
        elif wrong == "two links":
            os.link(path, f"{storage.path}/other")
        else:
            os.rename(path, f"{storage.path}/night/stored.fits")
            read = read._replace(copy="stored.fits")
        with pytest.raises(OSError, match="is not the copy that a worker says"):
            journal.take(source.entry(NAME), read, storage.entry(NAME), OWNER)
        assert not os.path.lexists(place.temporary_of(storage.entry(NAME), OWNER).path)
