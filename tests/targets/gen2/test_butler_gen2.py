"""Raw files into a Gen2 repository; the task is a double (see there), its registry is on disk."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome
from tests.targets.gen2 import pipe_tasks_double as double
from tests.targets.observations import write
from tests.targets.offering import digest, offered, results, started, stored

TASK = f"{double.__name__}.IngestTask"
MAPPER = f"{double.__name__}.Mapper"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a repository without a registry."""
    path = tmp_path / "repo"
    path.mkdir()
    (path / "_mapper").write_text(f"{MAPPER}\n")
    return path


def made(directory: Path, visit: int, ccd: int = 0, name: str = "", **more: Any) -> Path:
    cards = {"VISIT": visit, "CCD": ccd, "FILTER": "r", "OBJECT": "M31"} | more
    return write(directory / (name or f"{visit}-{ccd}.fits"), cards)


def ingest(root: Path, *paths: Path, **config: Any) -> list[Outcome]:
    config = {"root": str(root), "task": TASK, "create": True} | config
    with started("butler-gen2", paths[0].parent, **config) as plugin:
        return offered(plugin, *paths)


def rows(root: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(root / "registry.sqlite3")) as registry:
        return registry.execute("SELECT visit, ccd FROM raw ORDER BY visit, ccd").fetchall()


def test_first_ingest_links_the_file(root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, 7)
    before = digest(path)
    (outcome,) = ingest(root, path)
    assert (outcome.result.value, outcome.message) == ("done", "visit 7, ccd 0")
    assert os.readlink(root / "raw" / "7-00.fits") == str(path)
    assert digest(path) == before
    assert rows(root) == [(7, 0)]


def test_repeat_finds_it_there(root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, 7)
    ingest(root, path)
    assert results(ingest(root, path)) == ["already"]
    assert rows(root) == [(7, 0)]


def test_conflict_names_both_files(root: Path, tmp_path: Path) -> None:
    first, second = made(tmp_path, 7, name="a.fits"), made(tmp_path, 7, name="b.fits", OBJECT="M32")
    ingest(root, first)
    (outcome,) = ingest(root, second)
    assert outcome.result.value == "failed"
    assert str(first) in outcome.message
    assert str(second) in outcome.message


def test_conflict_within_a_batch(root: Path, tmp_path: Path) -> None:
    pair = made(tmp_path, 7, name="a.fits"), made(tmp_path, 7, name="b.fits", OBJECT="M32")
    assert results(ingest(root, *pair)) == ["done", "failed"]


def test_files_behind_a_bad_one_are_ingested(root: Path, tmp_path: Path) -> None:
    files = [made(tmp_path, visit) for visit in range(1, 6)]
    # The parser likes it, the registry does not.
    odd = made(tmp_path, 9)
    (root / "raw").mkdir()
    (root / "raw" / "9-00.fits").write_bytes(b"of somebody else")
    outcomes = ingest(root, *files[:2], odd, *files[2:])
    assert results(outcomes) == ["done", "done", "failed", "done", "done", "done"]
    assert "is there already" in outcomes[2].message


def test_task_that_stops_at_a_file_is_run_again_for_the_rest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = double.Register.addRow

    def refuse(self: Any, registry: Any, info: dict[str, Any]) -> None:
        if info["visit"] == 2:
            raise ValueError("visit 2 is cursed")
        add(self, registry, info)

    monkeypatch.setattr(double.Register, "addRow", refuse)
    outcomes = ingest(root, *(made(tmp_path, visit) for visit in range(1, 5)))
    assert results(outcomes) == ["done", "failed", "done", "done"]
    assert "Failed to register file" in outcomes[1].message
    assert "visit 2 is cursed" in outcomes[1].message


def test_corrupt_file(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.fits"
    bad.write_bytes(b"no FITS")
    outcomes = ingest(root, bad, made(tmp_path, 1))
    assert results(outcomes) == ["failed", "done"]
    assert "cannot be parsed" in outcomes[0].message


def test_missing_file_is_no_success(root: Path, tmp_path: Path) -> None:
    outcomes = ingest(root, tmp_path / "gone.fits", made(tmp_path, 1))
    assert results(outcomes) == ["failed", "done"]


@pytest.mark.parametrize("name", ["[12].fits", "a*.fits", "what?.fits", "a b.fits"])
def test_names_are_no_patterns(root: Path, tmp_path: Path, name: str) -> None:
    made(tmp_path, 1, name="1.fits")
    made(tmp_path, 2, name="ab.fits")
    assert results(ingest(root, made(tmp_path, 7, name=name))) == ["done"]
    assert rows(root) == [(7, 0)]


def test_registry_that_exists_is_never_made_anew(root: Path, tmp_path: Path) -> None:
    ingest(root, made(tmp_path, 1))
    ingest(root, made(tmp_path, 2))
    assert rows(root) == [(1, 0), (2, 0)]


def test_link_without_a_row_is_made_again(root: Path, tmp_path: Path) -> None:
    path = made(tmp_path, 7)
    _killed(_killed_between, str(root), str(path), "link")
    assert (root / "raw" / "7-00.fits").is_symlink()
    assert rows(root) == []
    assert results(ingest(root, path)) == ["done"]
    assert rows(root) == [(7, 0)]


def _killed_between(root: str, path: str, mode: str) -> None:
    double.IngestTask.between = staticmethod(lambda: os.kill(os.getpid(), 9))
    ingest(Path(root), Path(path), mode=mode)


def test_killed_before_its_success_was_recorded(root: Path, tmp_path: Path) -> None:
    files = [str(made(tmp_path, visit)) for visit in range(5)]
    _killed(_killed_after, str(root), files)
    assert results(ingest(root, *map(Path, files))) == ["already"] * 5
    assert len(rows(root)) == 5


def _killed_after(root: str, files: list[str]) -> None:
    paths = [Path(file) for file in files]
    config = {"root": root, "task": TASK, "create": True}
    with started("butler-gen2", paths[0].parent, **config) as plugin:
        for _ in plugin.ingest(stored(*paths)):
            os.kill(os.getpid(), 9)


def test_four_workers_at_once(root: Path, tmp_path: Path) -> None:
    ingest(root, made(tmp_path, 1000))
    files = [str(made(tmp_path, visit)) for visit in range(40)]
    shares = [(str(root), files[at::4]) for at in range(4)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.starmap(_ingest_apart, shares)
    assert [result for share in found for result in share] == ["done"] * 40
    assert len(rows(root)) == 41


def _ingest_apart(root: str, files: list[str]) -> list[str]:
    return results(ingest(Path(root), *map(Path, files)))


@pytest.mark.parametrize("lock", ["EXCLUSIVE", "IMMEDIATE"])
def test_registry_is_locked(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    # Against readers too, or for writing only: then the task wraps what it is told, twice.
    ingest(root, made(tmp_path, 1))
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k | {"timeout": 0}))
    with closing(connect(root / "registry.sqlite3", isolation_level=None)) as other:
        other.execute(f"BEGIN {lock}")
        with pytest.raises(NotReady, match="database is locked"):
            ingest(root, made(tmp_path, 2))
    assert results(ingest(root, tmp_path / "2-0.fits")) == ["done"]


def test_registry_of_another_task_is_an_error_of_the_configuration(
    root: Path, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(root / "registry.sqlite3")) as registry:
        registry.execute("CREATE TABLE raw (id INTEGER, visit int)")
    with pytest.raises(Misconfigured, match=r"no such column: .*another task"):
        ingest(root, made(tmp_path, 1))


def test_registry_that_may_not_be_opened_charges_no_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "registry.sqlite3")

    ingest(root, made(tmp_path, 1))
    monkeypatch.setattr(double.os, "chmod", refuse)
    with pytest.raises(NotReady, match="Operation not permitted"):
        ingest(root, made(tmp_path, 2), made(tmp_path, 3))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_disk_that_fails_charges_no_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    symlink = os.symlink

    def refuse(source: str, target: str) -> None:
        if source.endswith("2-0.fits"):
            raise OSError(number, os.strerror(number))
        symlink(source, target)

    monkeypatch.setattr(double.os, "symlink", refuse)
    outcomes = ingest(root, *(made(tmp_path, visit) for visit in (1, 2, 3)))
    assert results(outcomes) == ["done", "later", "done"]
    assert os.strerror(number) in outcomes[1].message


class TestCutShort:
    """The task reads headers alone, and would take such a file."""

    def test_data(self, root: Path, tmp_path: Path) -> None:
        cut, good = made(tmp_path, 1), made(tmp_path, 2)
        cut.write_bytes(cut.read_bytes()[:-2880])
        outcomes = ingest(root, cut, good)
        assert results(outcomes) == ["never", "done"]
        assert "cut short" in outcomes[0].message
        assert rows(root) == [(2, 0)]

    def test_extensions(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 1, NEXTEND=3)
        assert results(ingest(root, path)) == ["never"]
        assert results(ingest(root, path, nextend=False)) == ["done"]

    def test_padding_does_not_matter(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 1)
        path.write_bytes(path.read_bytes()[: -2880 + 8 * 8 * 2])
        assert results(ingest(root, path)) == ["done"]

    def test_what_the_parser_reads_is_its_own_affair(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 1)
        packed = path.with_suffix(".fits.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert results(ingest(root, packed)) == ["done"]


class TestSkip:
    """A row is all that ``mode = "skip"`` makes, and a row has no path."""

    def test_repeat_is_there_already(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 7)
        ingest(root, path, mode="skip")
        (outcome,) = ingest(root, path, mode="skip")
        assert outcome.result.value == "already"
        assert "registered before" in outcome.message

    def test_other_pixels_of_the_same_data_id_are_not(self, root: Path, tmp_path: Path) -> None:
        first, second = made(tmp_path, 7, name="a.fits"), made(tmp_path, 7, name="b.fits")
        second.write_bytes(second.read_bytes()[:-2880] + b"\x01" * 128 + bytes(2752))
        ingest(root, first, mode="skip")
        (outcome,) = ingest(root, second, mode="skip")
        assert outcome.result.value == "failed"
        assert f"from {first}; this is {second}" in outcome.message

    def test_both_in_one_batch(self, root: Path, tmp_path: Path) -> None:
        pair = made(tmp_path, 7, name="a.fits"), made(tmp_path, 7, name="b.fits", OBJECT="M32")
        assert results(ingest(root, *pair, mode="skip")) == ["done", "failed"]

    def test_same_content_elsewhere_is(self, root: Path, tmp_path: Path) -> None:
        pair = made(tmp_path, 7, name="a.fits"), made(tmp_path, 7, name="b.fits")
        ingest(root, pair[0], mode="skip")
        (outcome,) = ingest(root, pair[1], mode="skip")
        assert (outcome.result.value, "the same content in" in outcome.message) == ("already", True)

    def test_row_of_somebody_elses(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 7)
        ingest(root, path, mode="link")
        # Its link is at the mapper's place.
        assert results(ingest(root, path, mode="skip")) == ["already"]
        (root / "raw" / "7-00.fits").unlink()
        (outcome,) = ingest(root, path, mode="skip")
        assert outcome.result.value == "failed"
        assert "from a file that is not known" in outcome.message

    def test_killed_before_the_row(self, root: Path, tmp_path: Path) -> None:
        path = made(tmp_path, 7)
        _killed(_killed_between, str(root), str(path), "skip")
        assert rows(root) == []
        assert results(ingest(root, path, mode="skip")) == ["done"]


@pytest.mark.parametrize("length", [0, 1000, None])
def test_copy_that_a_kill_interrupted_is_made_again(
    root: Path, tmp_path: Path, length: int | None
) -> None:
    path = made(tmp_path, 7)
    _killed(_killed_between, str(root), str(path), "copy")
    copy = root / "raw" / "7-00.fits"
    copy.write_bytes(copy.read_bytes()[:length])
    assert results(ingest(root, path, mode="copy")) == ["done"]
    assert digest(copy) == digest(path)
    assert rows(root) == [(7, 0)]


def _killed(target: Callable[..., None], *args: Any) -> None:
    child = multiprocessing.get_context("spawn").Process(target=target, args=args)
    child.start()
    child.join()
    assert child.exitcode == -9


@pytest.mark.parametrize("mode", ["copy", "skip", "move"])
def test_other_modes(root: Path, tmp_path: Path, mode: str) -> None:
    path = made(tmp_path, 7)
    assert results(ingest(root, path, mode=mode)) == ["done"]
    assert rows(root) == [(7, 0)]
    assert path.exists() is (mode != "move")
    assert (root / "raw" / "7-00.fits").is_file() is (mode != "skip")


@pytest.mark.parametrize("mode", ["copy", "skip"])
def test_repeat_in_other_modes(root: Path, tmp_path: Path, mode: str) -> None:
    path = made(tmp_path, 7)
    ingest(root, path, mode=mode)
    assert results(ingest(root, path, mode=mode)) == ["already"]


def test_arguments_of_the_process_are_left_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dbb-ingester", "gen2"])
    ingest(root, made(tmp_path, 7))
    assert sys.argv == ["dbb-ingester", "gen2"]


def test_known_tells_what_the_registry_holds(root: Path, tmp_path: Path) -> None:
    first, second = made(tmp_path, 1), made(tmp_path, 2)
    config = {"root": str(root), "task": TASK, "create": True}
    with started("butler-gen2", tmp_path, **config) as plugin:
        offered(plugin, first)
        assert dict(plugin.known(stored(first, second)) or ()) == {1: True, 2: False}


class TestStartRefuses:
    """What a plugin says that cannot work as configured."""

    @pytest.fixture
    def start(self, root: Path, tmp_path: Path) -> Callable[..., None]:
        def start(**config: Any) -> None:
            with started("butler-gen2", tmp_path, **{"root": str(root), "task": TASK} | config):
                pass

        return start

    def test_a_mapper_that_is_not_set_up(self, start: Any, root: Path) -> None:
        (root / "_mapper").write_text("lsst.obs.nowhere.Mapper\n")
        with pytest.raises(Misconfigured, match=r"mapper that .*_mapper names cannot be imported"):
            start(create=True)

    def test_a_repository_that_is_not_mounted(self, start: Any, tmp_path: Path) -> None:
        with pytest.raises(NotReady, match="not mounted"):
            start(root=str(tmp_path / "nowhere"))

    def test_a_directory_that_is_no_repository(self, start: Any, root: Path) -> None:
        (root / "_mapper").rename(root / "other")
        with pytest.raises(Misconfigured, match="it has no _mapper"):
            start()

    def test_a_repository_without_registry(self, start: Any) -> None:
        with pytest.raises(Misconfigured, match="has no registry; create = true makes one"):
            start()

    def test_a_repository_that_the_task_refuses(self, start: Any, root: Path) -> None:
        (root / "_mapper").rename(root / "repositoryCfg.yaml")
        with pytest.raises(Misconfigured, match=r"refuses .* .exit 2"):
            start(create=True)

    def test_a_stack_that_is_not_set_up(self, start: Any) -> None:
        with pytest.raises(Misconfigured, match="set up the LSST stack"):
            start(task="lsst.pipe.tasks.ingest.IngestTask")

    @pytest.mark.parametrize("option", ["ignoreingested", "mode"])
    def test_an_option_that_is_none(self, start: Any, option: str) -> None:
        with pytest.raises(Misconfigured, match=f"options: {option} is no option"):
            start(options={option: True})
