"""The LSST stack's tasks by configured name; the tasks are doubles, the repository is real."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from lsst.daf.butler import Butler

from dbbbatch.targets.butler import fits
from dbbbatch.targets.plugin import Misconfigured, NotReady
from tests.targets.butler import obs_base_double as double
from tests.targets.butler.by_tasks import RAWS, VISITS, cam, ingest
from tests.targets.observations import DECAM, LSSTCAM, latiss, rubin, write, write_decam
from tests.targets.offering import results, started, stored

SKIPPING = {"task_options": {"skip_existing_exposures": True}}


def runs(repo: Path) -> set[str]:
    butler = Butler.from_config(str(repo))
    return {ref.run for ref in butler.query_datasets("raw", "*", find_first=False)}


def test_first_ingest_and_repeat(each_stack_repo: Path, tmp_path: Path) -> None:
    path = latiss(tmp_path)
    assert results(ingest(each_stack_repo, path, **RAWS)) == ["done"]
    assert results(ingest(each_stack_repo, path, **RAWS)) == ["already"]


def test_conflict_names_both_files(stack_repo: Path, tmp_path: Path) -> None:
    first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b", OBJECT="another")
    ingest(stack_repo, first, **RAWS)
    (outcome,) = ingest(stack_repo, second, **RAWS)
    assert outcome.result.value == "failed"
    assert str(first) in outcome.message


def test_success_of_some_is_trusted_although_the_task_raises(
    stack_repo: Path, tmp_path: Path
) -> None:
    good = [latiss(tmp_path, sequence=n) for n in (1, 2)]
    cut = latiss(tmp_path, sequence=3)
    cut.write_bytes(cut.read_bytes()[:-2880])
    strange = write(tmp_path / "strange.fits", {"INSTRUME": "Unheard"})
    outcomes = ingest(stack_repo, good[0], cut, strange, good[1], **RAWS)
    assert results(outcomes) == ["done", "never", "failed", "done"]


def test_known_file_does_not_take_its_exposure_along(stack_repo: Path, tmp_path: Path) -> None:
    first, *others = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
    ingest(stack_repo, first, **RAWS)
    outcomes = ingest(stack_repo, first, *others, **RAWS)
    assert results(outcomes) == ["already", "done", "done"]


def test_directly_and_by_the_task_give_one_exposure_record(
    stack_repo: Path, tmp_path: Path
) -> None:
    # The shutter was open for a moment longer than was asked for.
    lasted = {"EXPTIME": 15.0, "SHUTTIME": 15.000998}
    files = [
        write(tmp_path / f"{slot}.fits", rubin(LSSTCAM, 20250501, 7, CCDSLOT=slot, **lasted))
        for slot in ("S00", "S01", "S02")
    ]
    assert results(ingest(stack_repo, files[0], **RAWS)) == ["done"]
    assert results(ingest(stack_repo, files[1])) == ["done"]
    assert results(ingest(stack_repo, files[2], **RAWS)) == ["done"]
    (record,) = Butler.from_config(str(stack_repo)).query_dimension_records("exposure")
    assert record.exposure_time == 15.0


class TestSkippingExistingExposures:
    """The task tells of a success for every file of an exposure, also for those it skips."""

    def test_true_repeat_is_there_already(self, stack_repo: Path, tmp_path: Path) -> None:
        path = latiss(tmp_path)
        assert results(ingest(stack_repo, path, **RAWS, **SKIPPING)) == ["done"]
        (outcome,) = ingest(stack_repo, path, **RAWS, **SKIPPING)
        assert outcome.result.value == "already"
        assert "registered before" in outcome.message

    def test_same_content_elsewhere_is_there_already(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b")
        ingest(stack_repo, first, **RAWS, **SKIPPING)
        assert results(ingest(stack_repo, second, **RAWS, **SKIPPING)) == ["already"]

    def test_other_pixels_are_no_success(self, stack_repo: Path, tmp_path: Path) -> None:
        cards = rubin(LSSTCAM, 20250501, 7)
        first = write(tmp_path / "a.fits", cards, pixel=1)
        second = write(tmp_path / "b.fits", cards, pixel=2)
        ingest(stack_repo, first, **RAWS, **SKIPPING)
        (outcome,) = ingest(stack_repo, second, **RAWS, **SKIPPING)
        assert outcome.result.value == "failed"
        assert str(first) in outcome.message

    def test_success_that_came_too_late_is_found_out(
        self, stack_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cards = rubin(LSSTCAM, 20250501, 7)
        first = write(tmp_path / "a.fits", cards, pixel=1)
        second = write(tmp_path / "b.fits", cards, pixel=2)
        run = double.RawIngestTask.run

        def beaten(self: Any, files: Any, **more: Any) -> Any:
            # Another pass ingests the other file just before.
            monkeypatch.setattr(double.RawIngestTask, "run", run)
            ingest(stack_repo, first, **RAWS)
            return run(self, files, **more)

        monkeypatch.setattr(double.RawIngestTask, "run", beaten)
        (outcome,) = ingest(stack_repo, second, **RAWS, **SKIPPING)
        assert outcome.result.value == "failed"
        assert str(first) in outcome.message

    def test_other_detectors_of_the_exposure_go_in(self, stack_repo: Path, tmp_path: Path) -> None:
        first, *others = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
        ingest(stack_repo, first, **RAWS, **SKIPPING)
        outcomes = ingest(stack_repo, first, *others, **RAWS, **SKIPPING)
        assert results(outcomes) == ["already", "done", "done"]


class TestExceptionsWithoutACallback:
    """The task stops in the middle of a batch, and has said nothing of the other files."""

    def good(self, tmp_path: Path) -> list[Path]:
        return [latiss(tmp_path, sequence=n) for n in range(1, 6)]

    def test_filter_that_is_not_registered(self, stack_repo: Path, tmp_path: Path) -> None:
        good = self.good(tmp_path)
        odd = latiss(tmp_path, sequence=9, FILTER="brand_new")
        outcomes = ingest(stack_repo, *good[:2], odd, *good[2:], **RAWS)
        assert results(outcomes) == ["done", "done", "failed", "done", "done", "done"]
        assert "filter 'brand_new~empty' of LATISS is not registered" in outcomes[2].message
        assert "butler register-instrument --update" in outcomes[2].message

    def test_file_without_detectors(self, stack_repo: Path, tmp_path: Path) -> None:
        good = self.good(tmp_path)
        empty = write_decam(tmp_path / "decam.fits", DECAM, {})
        outcomes = ingest(stack_repo, *good[:2], empty, *good[2:], **RAWS)
        assert results(outcomes) == ["done", "done", "failed", "done", "done", "done"]
        assert outcomes[2].message.startswith("IndexError")
        assert "holds no detector that DECam knows" in outcomes[2].message

    def test_name_that_is_not_utf8(self, stack_repo: Path, tmp_path: Path) -> None:
        good = self.good(tmp_path)
        odd = latiss(tmp_path, sequence=9)
        odd = odd.rename(odd.with_name(os.fsdecode(b"\xff.fits")))
        outcomes = ingest(stack_repo, *good[:2], odd, *good[2:], **RAWS)
        assert results(outcomes) == ["done", "done", "never", "done", "done", "done"]

    def test_failing_fast(self, stack_repo: Path, tmp_path: Path) -> None:
        good = self.good(tmp_path)
        strange = [write(tmp_path / f"{n}.fits", {"INSTRUME": "Unheard"}) for n in range(2)]
        files = [*good[:2], strange[0], *good[2:4], strange[1], good[4]]
        outcomes = ingest(stack_repo, *files, task_config={"failFast": True}, **RAWS)
        wanted = ["done", "done", "failed", "done", "done", "failed", "done"]
        assert results(outcomes) == wanted

    def test_several_bad_files_of_one_exposure(
        self, stack_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
        read = double.RawIngestTask.read

        def refuse(self: Any, path: str) -> Any:
            return [] if path == str(files[1]) else read(self, path)

        monkeypatch.setattr(double.RawIngestTask, "read", refuse)
        assert results(ingest(stack_repo, *files, **RAWS)) == ["done", "failed", "done"]

    def test_a_few_calls_find_one_bad_file_among_many(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        good = [latiss(tmp_path, sequence=n) for n in range(1, 32)]
        odd = latiss(tmp_path, sequence=40, FILTER="brand_new")
        assert results(ingest(stack_repo, odd, *good, **RAWS)) == ["failed"] + ["done"] * 31
        assert len(double.RawIngestTask.calls) <= 12


class TestRaw:
    """The task registers the dataset type itself."""

    @pytest.fixture
    def bare_repo(self, stack_repo: Path) -> Path:
        Butler.from_config(str(stack_repo), writeable=True).registry.removeDatasetType("raw")
        return stack_repo

    def test_is_registered_by_the_first_success(self, bare_repo: Path, tmp_path: Path) -> None:
        assert results(ingest(bare_repo, latiss(tmp_path), **RAWS)) == ["done"]

    def test_first_batch_that_fails_is_no_error_of_the_configuration(
        self, bare_repo: Path, tmp_path: Path
    ) -> None:
        strange = write(tmp_path / "strange.fits", {"INSTRUME": "Unheard"})
        odd = latiss(tmp_path, FILTER="brand_new")
        assert results(ingest(bare_repo, strange, odd, **RAWS, **SKIPPING)) == ["failed", "failed"]
        with started("butler-gen3", tmp_path, repo=str(bare_repo), **RAWS) as plugin:
            assert dict(plugin.known(stored(odd)) or ()) == {1: False}

    def test_of_another_storage_class_is_one_error_at_the_start(
        self, sqlite_repo: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(
            Misconfigured, match=r"registers raw as Exposure.* has it as RawFits .*storage-class"
        ):
            ingest(sqlite_repo, latiss(tmp_path), **RAWS)
        assert double.RawIngestTask.calls == []

    def test_dataset_type_is_not_the_configurations_to_choose(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(Misconfigured, match="dataset_type: with task, files become raw"):
            ingest(stack_repo, latiss(tmp_path), dataset_type="frame", **RAWS)


class TestReading:
    """What goes wrong when a file is read: is it the file's, or the disk's?"""

    @pytest.mark.parametrize(
        ("error", "result"),
        [
            (double.FitsError("cfitsio error: tried to move past end of file (107)"), "failed"),
            (OSError(errno.EIO, os.strerror(errno.EIO)), "later"),
            (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "later"),
            (OSError(errno.EACCES, os.strerror(errno.EACCES)), "failed"),
        ],
    )
    @pytest.mark.parametrize("reader", ["ours", "the task"])
    def test_error(
        self,
        stack_repo: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        error: OSError,
        result: str,
        reader: str,
    ) -> None:
        files = [latiss(tmp_path, sequence=n) for n in (1, 2, 3)]
        owner, name = (fits, "walk") if reader == "ours" else (double.RawIngestTask, "read")
        read = getattr(owner, name)

        def broken(*args: Any, **more: Any) -> Any:
            if str(files[1]) in map(str, args):
                raise error
            return read(*args, **more)

        monkeypatch.setattr(owner, name, broken)
        outcomes = ingest(stack_repo, *files, **RAWS)
        assert results(outcomes) == ["done", result, "done"]
        assert "None" not in outcomes[1].message


class TestRun:
    def test_is_passed_on_if_it_is_not_the_usual_one(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        ingest(stack_repo, latiss(tmp_path), run="u/trial", **RAWS)
        assert runs(stack_repo) == {"u/trial"}

    def test_is_named_after_each_instrument(self, stack_repo: Path, tmp_path: Path) -> None:
        files = [latiss(tmp_path), cam(tmp_path, "S00"), write(tmp_path / "x", {"INSTRUME": "X"})]
        outcomes = ingest(stack_repo, *files, run="u/{instrument}", **RAWS)
        assert results(outcomes) == ["done", "done", "failed"]
        assert runs(stack_repo) == {"u/LATISS", "u/LSSTCam"}
        assert outcomes[0].message == "by RawIngestTask (u/LATISS)"

    def test_usual_one_is_told_by_its_name(self, stack_repo: Path, tmp_path: Path) -> None:
        (outcome,) = ingest(stack_repo, latiss(tmp_path), **RAWS)
        assert outcome.message == "by RawIngestTask (LATISS/raw/all)"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"task_options": {"skip_existing": True}}, "did you mean 'skip_existing_exposures'"),
        ({"task_options": {"files": []}}, "files is no option"),
        ({"task_options": {"run": "x"}}, "run is no option"),
        ({"task_options": {"pool": 3}}, "pool is no option"),
        ({"task_options": {"processes": 3}}, "processes is no option"),
        ({"task_options": {"skip_ingest": True}}, "skip_ingest is no option"),
        ({"task_options": {"file_filter": ".*"}}, "file_filter is no option"),
        ({"visits_options": {"dataIds_or_records": []}}, "dataIds_or_records is no option"),
        ({"visits_options": {"processes": 3}}, "processes is no option"),
        ({"visits_options": {"prefilter": True}} | VISITS, "prefilter does not go with"),
        ({"task_config": {"transfr": "copy"}}, "task_config: transfr = 'copy'"),
        ({"task_config": {"transfer": "move"}}, "task_config: transfer is the key transfer"),
        ({"task_config": {"failFast": "yes"}}, "task_config: failFast = 'yes'"),
        ({"exposures": "keep"}, "exposures: keep has no effect with task"),
        ({"exposures": "update"}, "update_exposure_records = true"),
    ],
)
def test_options_are_checked(
    stack_repo: Path, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(Misconfigured, match=says):
        ingest(stack_repo, latiss(tmp_path), **RAWS, **config)


def test_database_that_goes_away_leaves_what_was_said_before(
    stack_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy.exc

    files = [latiss(tmp_path, sequence=n) for n in (1, 2)]
    register = double.RawIngestTask._register

    def broken(self: Any, some: Any) -> None:
        if some[0][0].ospath == str(files[1]):
            raise sqlalchemy.exc.OperationalError("INSERT", None, Exception("server is gone"))
        register(self, some)

    monkeypatch.setattr(double.RawIngestTask, "_register", broken)
    with started("butler-gen3", tmp_path, repo=str(stack_repo), **RAWS) as plugin:
        outcomes = plugin.ingest(stored(*files))
        assert next(outcomes).result.value == "done"
        with pytest.raises(NotReady, match="server is gone"):
            next(outcomes)


def test_neighbours_of_a_bad_file_are_ingested(
    stack_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
    ingest_exposure = double.RawIngestTask._ingest_exposure

    def refuse(self: Any, some: Any, *more: Any) -> Any:
        if any(file.ospath == str(files[1]) for file, _ in some):
            raise ValueError("S01 is cursed")
        return ingest_exposure(self, some, *more)

    monkeypatch.setattr(double.RawIngestTask, "_ingest_exposure", refuse)
    outcomes = ingest(stack_repo, *files, **RAWS)
    assert results(outcomes) == ["done", "failed", "done"]
    assert outcomes[1].message == "ValueError: S01 is cursed"
