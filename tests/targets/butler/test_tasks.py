"""The LSST stack's tasks by configured name; the tasks are doubles, the repository is real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.targets.base import Misconfigured, Outcome
from tests.targets.butler import obs_base_double as double
from tests.targets.observations import LSSTCAM, latiss, rubin, write
from tests.targets.offering import offered, results, started, stored

RAWS = {"task": f"{double.__name__}.RawIngestTask"}
VISITS = {"visits": f"{double.__name__}.DefineVisitsTask"}


@pytest.fixture(autouse=True)
def _fresh_doubles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(double.RawIngestTask, "calls", [])
    monkeypatch.setattr(double.DefineVisitsTask, "defined", [])
    monkeypatch.setattr(double.DefineVisitsTask, "impossible", set())
    return


def ingest(repo: Path, *paths: Path, **config: Any) -> list[Outcome]:
    with started("butler-gen3", paths[0].parent, repo=str(repo), **config) as plugin:
        return offered(plugin, *paths)


def cam(directory: Path, slot: str, sequence: int = 7) -> Path:
    return write(directory / f"{slot}.fits", rubin(LSSTCAM, 20250501, sequence, CCDSLOT=slot))


def test_first_ingest_and_repeat(repo: Path, tmp_path: Path) -> None:
    path = latiss(tmp_path)
    assert results(ingest(repo, path, **RAWS)) == ["done"]
    assert results(ingest(repo, path, **RAWS)) == ["already"]


def test_conflict_names_both_files(sqlite_repo: Path, tmp_path: Path) -> None:
    first, second = latiss(tmp_path / "a"), latiss(tmp_path / "b", OBJECT="another")
    ingest(sqlite_repo, first, **RAWS)
    (outcome,) = ingest(sqlite_repo, second, **RAWS)
    assert outcome.result.value == "failed"
    assert str(first) in outcome.message


def test_success_of_some_is_trusted_although_the_task_raises(
    sqlite_repo: Path, tmp_path: Path
) -> None:
    good = [latiss(tmp_path, sequence=n) for n in (1, 2)]
    cut = latiss(tmp_path, sequence=3)
    cut.write_bytes(cut.read_bytes()[:-2880])
    strange = write(tmp_path / "strange.fits", {"INSTRUME": "Unheard"})
    outcomes = ingest(sqlite_repo, good[0], cut, strange, good[1], **RAWS)
    assert results(outcomes) == ["done", "never", "failed", "done"]


def test_known_file_does_not_take_its_exposure_along(sqlite_repo: Path, tmp_path: Path) -> None:
    first, *others = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
    ingest(sqlite_repo, first, **RAWS)
    outcomes = ingest(sqlite_repo, first, *others, **RAWS)
    assert results(outcomes) == ["already", "done", "done"]


def test_files_that_the_task_skips_are_there_already(sqlite_repo: Path, tmp_path: Path) -> None:
    path = latiss(tmp_path)
    ingest(sqlite_repo, path, **RAWS)
    options = {"task_options": {"skip_existing_exposures": True}}
    assert results(ingest(sqlite_repo, path, **RAWS, **options)) == ["already"]
    assert double.RawIngestTask.calls[-1] == {"run": None, "skip_existing_exposures": True}


def test_run_is_passed_on_if_it_is_not_the_usual_one(sqlite_repo: Path, tmp_path: Path) -> None:
    ingest(sqlite_repo, latiss(tmp_path), run="u/trial", **RAWS)
    assert double.RawIngestTask.calls[-1]["run"] == "u/trial"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"task_options": {"skip_existing": True}}, "did you mean 'skip_existing_exposures'"),
        ({"task_options": {"files": []}}, "files is no option"),
        ({"task_config": {"transfr": "copy"}}, "task_config: transfr = 'copy'"),
        ({"task_config": {"failFast": "yes"}}, "task_config: failFast = 'yes'"),
    ],
)
def test_options_are_checked(
    sqlite_repo: Path, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(Misconfigured, match=says):
        ingest(sqlite_repo, latiss(tmp_path), **RAWS, **config)


@pytest.mark.parametrize("raws", [RAWS, {}], ids=["by the task", "directly"])
class TestVisits:
    def test_are_defined_once_an_exposure(
        self, sqlite_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        files = [*(cam(tmp_path, slot) for slot in ("S00", "S01")), latiss(tmp_path)]
        assert results(ingest(sqlite_repo, *files, **raws, **VISITS)) == ["done"] * 3
        assert sorted(double.DefineVisitsTask.defined) == [2025050100007, 2025112300001]

    def test_that_cannot_be_defined_leaves_its_file_partly_done(
        self, sqlite_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        good, bad = latiss(tmp_path, sequence=1), latiss(tmp_path, sequence=2)
        double.DefineVisitsTask.impossible.add(2025112300002)
        first, second = ingest(sqlite_repo, good, bad, **raws, **VISITS)
        assert first.result.value == "done"
        assert (second.result.value, second.parts_done) == ("partly", {"raw"})
        assert second.message.startswith("visit of exposure 2025112300002 not defined: no camera")

    def test_only_the_visit_is_repeated(
        self, sqlite_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        path = latiss(tmp_path)
        with started("butler-gen3", tmp_path, repo=str(sqlite_repo), **raws, **VISITS) as plugin:
            (file,) = stored(path, parts_done=frozenset({"raw"}))
            (outcome,) = plugin.ingest([file])
            assert outcome.result.value == "done"
            # The file itself was not offered to the repository again.
            assert dict(plugin.known([file]) or ()) == {1: False}
        assert double.DefineVisitsTask.defined == [2025112300001]


def test_neighbours_of_a_bad_file_are_ingested(
    sqlite_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [cam(tmp_path, slot) for slot in ("S00", "S01", "S02")]
    ingest_exposure = double.RawIngestTask._ingest_exposure

    def refuse(self: Any, some: Any, *more: Any) -> Any:
        if any(file.ospath == str(files[1]) for file, _ in some):
            raise ValueError("S01 is cursed")
        return ingest_exposure(self, some, *more)

    monkeypatch.setattr(double.RawIngestTask, "_ingest_exposure", refuse)
    outcomes = ingest(sqlite_repo, *files, **RAWS)
    assert results(outcomes) == ["done", "failed", "done"]
    assert outcomes[1].message == "ValueError: S01 is cursed"
