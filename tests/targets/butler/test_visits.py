"""Visits, defined by the LSST stack's task; the tasks are doubles, the repository is real."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dbbbatch.targets.plugin import Misconfigured
from tests.targets.butler import obs_base_double as double
from tests.targets.butler.by_tasks import RAWS, VISITS, cam, ingest
from tests.targets.observations import latiss
from tests.targets.offering import results, started, stored


@pytest.mark.parametrize("raws", [RAWS, {}], ids=["by the task", "directly"])
class TestVisits:
    def test_are_defined_once_an_exposure(
        self, stack_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        files = [*(cam(tmp_path, slot) for slot in ("S00", "S01")), latiss(tmp_path)]
        assert results(ingest(stack_repo, *files, **raws, **VISITS)) == ["done"] * 3
        assert sorted(double.DefineVisitsTask.defined) == [2025050100007, 2025112300001]

    def test_that_cannot_be_defined_leaves_its_file_partly_done(
        self, stack_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        good, bad = latiss(tmp_path, sequence=1), latiss(tmp_path, sequence=2)
        double.DefineVisitsTask.impossible.add(2025112300002)
        first, second = ingest(stack_repo, good, bad, **raws, **VISITS)
        assert first.result.value == "done"
        assert (second.result.value, second.parts_done) == ("partly", {"raw"})
        assert second.message.startswith("visit of exposure 2025112300002 not defined: no camera")

    def test_only_the_visit_is_repeated(
        self, stack_repo: Path, tmp_path: Path, raws: dict[str, str]
    ) -> None:
        path = latiss(tmp_path)
        with started("butler-gen3", tmp_path, repo=str(stack_repo), **raws, **VISITS) as plugin:
            (file,) = stored(path, parts_done=frozenset({"raw"}))
            (outcome,) = plugin.ingest([file])
            assert outcome.result.value == "done"
            # The file itself was not offered to the repository again.
            assert dict(plugin.known([file]) or ()) == {1: False}
        assert double.DefineVisitsTask.defined == [2025112300001]


class TestVisitsAreConfigured:
    """As ``butler define-visits`` does it."""

    @pytest.fixture(autouse=True)
    def _package_of_the_instrument(self, monkeypatch: pytest.MonkeyPatch) -> None:
        package = ModuleType("lsst.obs.lsst")
        package.Latiss = double.Latiss  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lsst.obs", ModuleType("lsst.obs"))
        monkeypatch.setitem(sys.modules, "lsst.obs.lsst", package)

    def calls(self, repo: Path, *paths: Path, **config: Any) -> list[dict[str, Any]]:
        assert set(results(ingest(repo, *paths, **VISITS | config))) == {"done"}
        return double.DefineVisitsTask.calls

    def test_one_instrument_a_call_with_its_overrides(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        (first, second) = self.calls(stack_repo, latiss(tmp_path), cam(tmp_path, "S00"))
        assert (first["instrument"], first["padding"]) == ("LATISS", 4000)
        assert (second["instrument"], second["padding"]) == ("LSSTCam", 250)

    def test_site_has_the_last_word(self, stack_repo: Path, tmp_path: Path) -> None:
        fields = {"visits_config": {"computeVisitRegions.padding": 7}}
        (call,) = self.calls(stack_repo, latiss(tmp_path), **fields)
        assert call["padding"] == 7

    def test_files_come_in_one_by_one(self, stack_repo: Path, tmp_path: Path) -> None:
        (call,) = self.calls(stack_repo, latiss(tmp_path))
        assert call["incremental"] is True

    def test_incremental_may_be_chosen(self, stack_repo: Path, tmp_path: Path) -> None:
        options = {"visits_options": {"incremental": False, "prefilter": True}}
        (call,) = self.calls(stack_repo, latiss(tmp_path), **options)
        assert call["incremental"] is False

    def test_old_task_is_not_asked_for_what_it_does_not_know(
        self, stack_repo: Path, tmp_path: Path
    ) -> None:
        old = {"visits": f"{double.__name__}.OldDefineVisitsTask"}
        (call,) = self.calls(stack_repo, latiss(tmp_path), **old)
        assert call["incremental"] is False

    def test_overrides_that_fail_are_an_error_of_the_configuration(
        self, stack_repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: Any, name: str, config: Any) -> None:
            raise AttributeError("no field padding")

        monkeypatch.setattr(double.Latiss, "applyConfigOverrides", broken)
        with pytest.raises(Misconfigured, match=r"overrides of lsst.obs.lsst.Latiss .*no field"):
            ingest(stack_repo, latiss(tmp_path), **VISITS)
