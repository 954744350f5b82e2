"""Raw files into a real repository, without the LSST stack."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import checksum
from dbbbatch.targets.butler import fits, headers
from dbbbatch.targets.plugin import NotReady, Outcome
from tests.targets.butler.postgres import InstalledPostgres
from tests.targets.observations import (
    DECAM,
    HSC,
    LSSTCAM,
    latiss,
    rubin,
    write,
    write_decam,
)
from tests.targets.offering import digest, offered, results, started, stored

DETECTORS = {1: "S29", 2: "S30", 62: "N31"}


def ingest(repo: Path, *paths: Path, **config: Any) -> list[Outcome]:
    with started("butler-gen3", paths[0].parent, repo=str(repo), **config) as plugin:
        return offered(plugin, *paths)


def held(butler: Any, run: str = "LATISS/raw/all") -> dict[tuple[int, int], str]:
    """Return what a run holds: exposure and detector to path."""
    refs = butler.query_datasets("raw", collections=run, limit=None, explain=False)
    return {
        (ref.dataId["exposure"], ref.dataId["detector"]): butler.getURI(ref).ospath for ref in refs
    }


class TestOnEachDatabase:
    def test_first_ingest_registers_the_file_where_it_lies(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        path = latiss(tmp_path)
        before = digest(path), path.stat().st_mtime_ns
        (outcome,) = ingest(repo, path)
        assert outcome.result.value == "done"
        assert outcome.message == "raw LATISS 2025112300001/0 in LATISS/raw/all"
        assert held(opened()) == {(2025112300001, 0): str(path)}
        assert (digest(path), path.stat().st_mtime_ns) == before

    def test_repeat_finds_it_there(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        path = latiss(tmp_path)
        ingest(repo, path)
        (outcome,) = ingest(repo, path)
        assert outcome.result.value == "already"
        assert "registered before" in outcome.message
        assert len(held(opened())) == 1

    def test_conflict_names_both_files(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b", OBJECT="another")
        ingest(repo, first)
        (outcome,) = ingest(repo, second)
        assert outcome.result.value == "failed"
        assert str(first) in outcome.message
        assert str(second) in outcome.message
        assert held(opened()) == {(2025112300001, 0): str(first)}

    def test_two_of_one_batch_that_claim_to_be_one_dataset(
        self, repo: Path, tmp_path: Path
    ) -> None:
        pair = latiss(tmp_path / "a"), latiss(tmp_path / "b", OBJECT="another")
        assert results(ingest(repo, *pair)) == ["done", "failed"]

    def test_bad_files_do_not_stop_their_neighbours(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        good = [latiss(tmp_path, sequence=n) for n in range(1, 8)]
        cut = latiss(tmp_path, sequence=20)
        cut.write_bytes(cut.read_bytes()[:-2880])
        gone = latiss(tmp_path, sequence=21)
        gone.unlink()
        strange = write(tmp_path / "strange.fits", {"INSTRUME": "Unheard"})
        outcomes = ingest(repo, *good[:3], cut, gone, strange, *good[3:])
        assert results(outcomes) == [*["done"] * 3, "never", "failed", "failed", *["done"] * 4]
        assert "cut short" in outcomes[3].message
        assert "No such file" in outcomes[4].message
        assert "no translator understands its headers (INSTRUME = 'Unheard')" in outcomes[5].message
        assert len(held(opened())) == 7

    def test_file_with_several_detectors(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        path = write_decam(tmp_path / "decam.fits.fz", DECAM, DETECTORS)
        assert results(ingest(repo, path)) == ["done"]
        assert results(ingest(repo, path)) == ["already"]
        assert held(opened(), "DECam/raw/all") == {
            (229388, detector): str(path) for detector in DETECTORS
        }

    def test_four_workers_at_once(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        paths = [str(latiss(tmp_path, sequence=n)) for n in range(1, 41)]
        context = multiprocessing.get_context("spawn")
        # Every exposure twice, by different workers: two files at a time are the same one.
        shares = [(str(repo), paths[share * 10 : share * 10 + 20]) for share in range(4)]
        with context.Pool(4) as pool:
            found = pool.starmap(_ingest_apart, shares)
        assert {result for share in found for result in share} <= {"done", "already"}
        assert sorted(held(opened()).values()) == sorted(paths)

    def test_killed_before_its_success_was_recorded(
        self, repo: Path, tmp_path: Path, opened: Callable[[], Any]
    ) -> None:
        paths = [latiss(tmp_path, sequence=n) for n in range(1, 6)]
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=_ingest_and_die, args=(str(repo), [str(p) for p in paths]))
        child.start()
        child.join()
        assert child.exitcode == -9
        assert results(ingest(repo, *paths)) == ["already"] * 5
        assert len(held(opened())) == 5


def _ingest_apart(repo: str, paths: list[str]) -> list[str]:
    return results(
        ingest(
            Path(repo),
            *map(Path, paths),
        )
    )


def _ingest_and_die(repo: str, paths: list[str]) -> None:
    with started("butler-gen3", Path(paths[0]).parent, repo=repo) as plugin:
        for _ in plugin.ingest(stored(*map(Path, paths))):
            os.kill(os.getpid(), 9)


def test_cameras_of_every_kind(sqlite_repo: Path, tmp_path: Path) -> None:
    files = [
        latiss(tmp_path),
        write(tmp_path / "cam.fits.fz", rubin(LSSTCAM, 20250501, 7), compress=True),
        write(tmp_path / "hsc.fits", HSC),
        write_decam(tmp_path / "decam.fits", DECAM, DETECTORS),
    ]
    assert results(ingest(sqlite_repo, *files)) == ["done"] * 4


def test_detectors_of_one_exposure_in_several_batches(sqlite_repo: Path, tmp_path: Path) -> None:
    slots = [f"S{a}{b}" for a in range(3) for b in range(3)]
    files = [
        write(tmp_path / f"{slot}.fits", rubin(LSSTCAM, 20250501, 7, CCDSLOT=slot))
        for slot in slots
    ]
    with started("butler-gen3", tmp_path, repo=str(sqlite_repo)) as plugin:
        assert results(offered(plugin, *files[:4])) == ["done"] * 4
        assert results(offered(plugin, *files)) == ["already"] * 4 + ["done"] * 5


def test_the_same_content_under_another_name_is_there_already(
    sqlite_repo: Path, tmp_path: Path
) -> None:
    first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b")
    ingest(sqlite_repo, first)
    (outcome,) = ingest(sqlite_repo, second)
    assert outcome.result.value == "already"
    assert f"the same content in {first}" in outcome.message


def test_file_that_was_pruned_may_be_ingested_from_elsewhere(
    sqlite_repo: Path, tmp_path: Path
) -> None:
    from lsst.daf.butler import Butler

    first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b")
    ingest(sqlite_repo, first)
    butler = Butler.from_config(str(sqlite_repo), writeable=True)
    refs = butler.query_datasets("raw", collections="LATISS/raw/all")
    butler.pruneDatasets(refs, unstore=True, disassociate=False)
    assert results(ingest(sqlite_repo, second)) == ["done"]
    assert held(butler) == {(2025112300001, 0): str(second)}


class TestExposureThatDiffers:
    """The repository's record of an exposure says other things than the headers do."""

    @pytest.fixture
    def two_detectors(self, sqlite_repo: Path, tmp_path: Path) -> Path:
        first = write(tmp_path / "1.fits", rubin(LSSTCAM, 20250501, 7, CCDSLOT="S00"))
        assert results(ingest(sqlite_repo, first)) == ["done"]
        return write(tmp_path / "2.fits", rubin(LSSTCAM, 20250501, 7, OBJECT="other"))

    def test_fails_with_both_values(self, sqlite_repo: Path, two_detectors: Path) -> None:
        (outcome,) = ingest(sqlite_repo, two_detectors)
        assert outcome.result.value == "failed"
        assert "target_name 'COSMOS' there, 'other' here" in outcome.message

    def test_is_kept(self, sqlite_repo: Path, two_detectors: Path) -> None:
        assert results(ingest(sqlite_repo, two_detectors, exposures="keep")) == ["done"]
        assert _target_names(sqlite_repo) == {"COSMOS"}

    def test_is_updated(self, sqlite_repo: Path, two_detectors: Path) -> None:
        assert results(ingest(sqlite_repo, two_detectors, exposures="update")) == ["done"]
        assert _target_names(sqlite_repo) == {"other"}


def _target_names(repo: Path) -> set[str]:
    from lsst.daf.butler import Butler

    records = Butler.from_config(str(repo)).query_dimension_records("exposure")
    return {record.target_name for record in records}


def test_filter_that_may_not_be_registered(sqlite_repo: Path, tmp_path: Path) -> None:
    path = latiss(tmp_path, GRATING="brand_new")
    (outcome,) = ingest(sqlite_repo, path, register_filters=False)
    assert outcome.result.value == "failed"
    assert "filter 'SDSSr_65mm~brand_new' of LATISS is not registered" in outcome.message


def test_band_of_a_filter_that_is_not_known_is_not_guessed(
    sqlite_repo: Path, tmp_path: Path
) -> None:
    from lsst.daf.butler import Butler

    assert results(ingest(sqlite_repo, latiss(tmp_path, GRATING="brand_new"))) == ["done"]
    records = Butler.from_config(str(sqlite_repo)).query_dimension_records(
        "physical_filter", instrument="LATISS", physical_filter="SDSSr_65mm~brand_new"
    )
    assert [record.band for record in records] == ["SDSSr_65mm~brand_new"]


class TestBadCard:
    """A card that cannot be parsed keeps no file out that can do without it."""

    def spoil(self, path: Path, keyword: str, value: str = "12,34 mm") -> Path:
        content = path.read_bytes()
        at = content.index(f"{keyword:<8}=".encode())
        card = f"{keyword:<8}= {value}".ljust(80).encode()
        path.write_bytes(content[:at] + card + content[at + 80 :])
        return path

    def cam(self, tmp_path: Path, sequence: int) -> Path:
        cards = rubin(LSSTCAM, 20250501, sequence, TELFOCUS=12.34)
        return write(tmp_path / f"{sequence}.fits.fz", cards, compress=True)

    def test_nobody_needs_it(self, sqlite_repo: Path, tmp_path: Path) -> None:
        files = [self.spoil(self.cam(tmp_path, 1), "TELFOCUS"), self.cam(tmp_path, 2)]
        assert results(ingest(sqlite_repo, *files)) == ["done", "done"]

    def test_in_one_of_several_detectors(self, sqlite_repo: Path, tmp_path: Path) -> None:
        path = write_decam(tmp_path / "decam.fits", DECAM | {"TELFOCUS": 1.5}, DETECTORS)
        self.spoil(path, "EXTNAME", "'S29 without an end")
        assert results(ingest(sqlite_repo, self.spoil(path, "TELFOCUS"))) == ["done"]

    def test_that_is_needed_is_named(self, sqlite_repo: Path, tmp_path: Path) -> None:
        bad, good = self.spoil(self.cam(tmp_path, 1), "SEQNUM", "one"), self.cam(tmp_path, 2)
        first, second = ingest(sqlite_repo, bad, good)
        assert (first.result.value, second.result.value) == ("failed", "done")
        assert "cannot be parsed: SEQNUM = one" in first.message

    def test_does_not_stop_its_batch(
        self, sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Whatever a translator raises is the file's own.
        def odd(path: str, **more: Any) -> Any:
            if "2" in Path(path).name:
                raise ZeroDivisionError("of a site's own translator")
            return observations(path, **more)

        observations = headers.observations
        monkeypatch.setattr(headers, "observations", odd)
        outcomes = ingest(sqlite_repo, *(self.cam(tmp_path, n) for n in (1, 2, 3)))
        assert results(outcomes) == ["done", "failed", "done"]
        assert "ZeroDivisionError: of a site's own" in outcomes[1].message


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_disk_that_fails_while_reading_is_not_the_files_fault(
    sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    files = [latiss(tmp_path, sequence=n) for n in (1, 2)]
    walk = fits.walk

    def broken(path: str, **more: Any) -> Any:
        if path == str(files[0]):
            raise OSError(number, os.strerror(number))
        return walk(path, **more)

    monkeypatch.setattr(fits, "walk", broken)
    assert results(ingest(sqlite_repo, *files)) == ["later", "done"]


def test_file_on_a_bad_sector_is_charged(
    sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [latiss(tmp_path, sequence=n) for n in (1, 2)]
    walk = fits.walk

    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def broken(path: str, **more: Any) -> Any:
        return fail() if path == str(files[0]) else walk(path, **more)

    monkeypatch.setattr(fits, "walk", broken)
    monkeypatch.setattr(checksum, "compute", fail)
    assert results(ingest(sqlite_repo, *files)) == ["failed", "done"]


@pytest.mark.parametrize("transfer", ["copy", "hardlink", "symlink"])
def test_killed_between_copying_and_recording(
    repo: Path, tmp_path: Path, opened: Callable[[], Any], transfer: str
) -> None:
    paths = [latiss(tmp_path / "storage", sequence=n) for n in range(1, 4)]
    context = multiprocessing.get_context("spawn")
    child = context.Process(
        target=_copy_and_die, args=(str(repo), [str(path) for path in paths], transfer)
    )
    child.start()
    child.join()
    assert child.exitcode == -9
    assert len(_artifacts(repo)) == 2
    assert held(opened()) == {}
    assert results(ingest(repo, *paths, transfer=transfer)) == ["done"] * 3
    assert results(ingest(repo, *paths, transfer=transfer)) == ["already"] * 3
    assert sorted(held(opened()).values()) == _artifacts(repo)
    assert len(_artifacts(repo)) == 3


def _artifacts(repo: Path) -> list[str]:
    return sorted(map(str, (repo / "LATISS").rglob("*.fits*")))


def _copy_and_die(repo: str, paths: list[str], transfer: str) -> None:
    from lsst.resources.file import FileResourcePath

    transfer_from = FileResourcePath.transfer_from
    numbers = itertools.count(1)

    def and_die(self: Any, *args: Any, **more: Any) -> None:
        transfer_from(self, *args, **more)
        if next(numbers) == 2:
            os.kill(os.getpid(), 9)

    FileResourcePath.transfer_from = and_die
    ingest(Path(repo), *map(Path, paths), transfer=transfer)


def test_night_that_is_none_stops_no_other_file(sqlite_repo: Path, tmp_path: Path) -> None:
    good, bad = latiss(tmp_path, sequence=1), latiss(tmp_path, sequence=2, DAYOBS="20259999")
    outcomes = ingest(sqlite_repo, bad, good)
    assert results(outcomes) == ["failed", "done"]
    assert "exposure 2025999900002: ValueError" in outcomes[0].message


def test_detector_that_is_not_registered(sqlite_repo: Path, tmp_path: Path) -> None:
    (outcome,) = ingest(sqlite_repo, write(tmp_path / "hsc.fits", HSC | {"DET-ID": 150}))
    assert outcome.result.value == "failed"
    assert "detector 150 of HSC is not registered" in outcome.message


@pytest.mark.parametrize("name", ["a b.fits", "a#1.fits", "50%.fits", "%41.fits", "é?&.fits"])
def test_names_are_data(sqlite_repo: Path, tmp_path: Path, name: str) -> None:
    from lsst.daf.butler import Butler

    path = latiss(tmp_path)
    path = path.rename(path.with_name(name))
    assert results(ingest(sqlite_repo, path)) == ["done"]
    assert list(held(Butler.from_config(str(sqlite_repo))).values()) == [str(path)]
    assert results(ingest(sqlite_repo, path)) == ["already"]


def test_name_that_is_not_utf8_is_refused(sqlite_repo: Path, tmp_path: Path) -> None:
    path = latiss(tmp_path)
    path = path.rename(path.with_name(os.fsdecode(b"\xff.fits")))
    assert results(ingest(sqlite_repo, path)) == ["never"]


def test_file_can_be_read_back_without_the_stack(sqlite_repo: Path, tmp_path: Path) -> None:
    from lsst.daf.butler import Butler

    ingest(sqlite_repo, latiss(tmp_path, sequence=5))
    butler = Butler.from_config(str(sqlite_repo), collections="LATISS/raw/all")
    with butler.get("raw", instrument="LATISS", exposure=2025112300005, detector=0) as hdus:
        assert hdus[0].header["SEQNUM"] == 5
        assert (hdus[0].data == 5).all()


def test_ids_are_those_of_the_stack(sqlite_repo: Path, tmp_path: Path) -> None:
    # uuid5 of the run and the data id in lsst.daf.butler's namespace, for ever.
    from lsst.daf.butler import Butler

    ingest(sqlite_repo, latiss(tmp_path))
    (ref,) = Butler.from_config(str(sqlite_repo)).query_datasets("raw", "LATISS/raw/all")
    assert ref.id.version == 5


def test_known_tells_what_the_repository_holds(sqlite_repo: Path, tmp_path: Path) -> None:
    first, second = latiss(tmp_path, sequence=1), latiss(tmp_path, sequence=2)
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE")
    with started("butler-gen3", tmp_path, repo=str(sqlite_repo)) as plugin:
        offered(plugin, first)
        found = plugin.known(stored(first, second, broken))
        assert dict(found or ()) == {1: True, 2: False, 3: False}


def test_copies_if_so_configured(sqlite_repo: Path, tmp_path: Path) -> None:
    from lsst.daf.butler import Butler

    path = latiss(tmp_path)
    assert results(ingest(sqlite_repo, path, transfer="copy")) == ["done"]
    (copy,) = held(Butler.from_config(str(sqlite_repo))).values()
    assert copy.startswith(str(sqlite_repo))
    assert results(ingest(sqlite_repo, path, transfer="copy")) == ["already"]


class TestAway:
    """What is away costs no file an attempt: the pass ends and the next one carries on."""

    def test_postgres_goes_and_comes_back(
        self, postgres_repo: Path, tmp_path: Path, butler_postgres: InstalledPostgres
    ) -> None:
        first, second = latiss(tmp_path, sequence=1), latiss(tmp_path, sequence=2)
        with started("butler-gen3", tmp_path, repo=str(postgres_repo)) as plugin:
            assert results(offered(plugin, first)) == ["done"]
            with butler_postgres.down(), pytest.raises(NotReady, match="its database is away"):
                offered(plugin, second)
            assert results(offered(plugin, second)) == ["done"]

    def test_postgres_is_down_at_the_start(
        self, postgres_repo: Path, tmp_path: Path, butler_postgres: InstalledPostgres
    ) -> None:
        with (
            butler_postgres.down(),
            pytest.raises(NotReady, match="its database is away"),
            started("butler-gen3", tmp_path, repo=str(postgres_repo)),
        ):
            pass

    def test_broken_connection_is_mended(
        self, postgres_repo: Path, tmp_path: Path, butler_postgres: InstalledPostgres
    ) -> None:
        with started("butler-gen3", tmp_path, repo=str(postgres_repo)) as plugin:
            assert results(offered(plugin, latiss(tmp_path, sequence=1))) == ["done"]
            butler_postgres.restart()
            assert results(offered(plugin, latiss(tmp_path, sequence=2))) == ["done"]

    def test_sqlite_is_locked(
        self, sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with started("butler-gen3", tmp_path, repo=str(sqlite_repo)) as plugin:
            _wait_no_longer(plugin)
            other = sqlite3.connect(sqlite_repo / "gen3.sqlite3", isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(NotReady, match="database is locked"):
                offered(plugin, latiss(tmp_path))
            other.execute("ROLLBACK")
            assert results(offered(plugin, latiss(tmp_path / "again"))) == ["done"]


def _wait_no_longer(plugin: Any) -> None:
    """Let SQLite give up at once, not after the five minutes that the Butler sets."""
    from sqlalchemy import event

    engine = plugin._repository.butler._registry._db._engine
    event.listen(engine, "checkout", lambda c, *_: c.execute("PRAGMA busy_timeout = 0"))


def test_batch_that_is_refused_is_taken_apart_by_halves(
    sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [latiss(tmp_path, sequence=n) for n in range(1, 65)]
    with started("butler-gen3", tmp_path, repo=str(sqlite_repo)) as plugin:
        butler = plugin._repository.butler
        calls = []

        def refusing(*datasets: Any, **more: Any) -> None:
            calls.append(len(datasets))
            files[17].unlink(missing_ok=True)
            type(butler).ingest(butler, *datasets, **more)

        monkeypatch.setattr(butler, "ingest", refusing)
        outcomes = offered(plugin, *files)
    assert results(outcomes) == ["done"] * 17 + ["failed"] + ["done"] * 46
    assert "FileNotFoundError" in outcomes[17].message
    assert len(calls) == 1 + 2 * 6


def test_into_another_run_that_does_not_exist_yet(sqlite_repo: Path, tmp_path: Path) -> None:
    from lsst.daf.butler import Butler

    path = latiss(tmp_path)
    assert results(ingest(sqlite_repo, path)) == ["done"]
    assert results(ingest(sqlite_repo, path, run="u/me/{instrument}")) == ["done"]
    assert results(ingest(sqlite_repo, path, run="u/me/{instrument}")) == ["already"]
    assert len(held(Butler.from_config(str(sqlite_repo)), "u/me/LATISS")) == 1


def test_slow_reading_does_not_keep_outcomes_back(
    sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [latiss(tmp_path, sequence=n) for n in range(1, 5)]
    with started("butler-gen3", tmp_path, repo=str(sqlite_repo)) as plugin:
        monkeypatch.setattr(plugin._engine, "_patience", -1.0)
        outcomes = plugin.ingest(stored(*files))
        assert next(outcomes).result.value == "done"
        files[3].unlink()
        assert [outcome.result.value for outcome in outcomes] == ["done", "done", "failed"]
