"""`dbb butler prepare`: from nothing to a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scripts import run_script

BUTLER = "the Butler's packages are not installed: pip install 'dbbbatch[butler]'"


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    (tmp_path / "storage").mkdir()
    path = tmp_path / "dbb.toml"
    path.write_text(
        f"""
        [site]
        name = "site"
        state = "{tmp_path}"
        [database]
        url = "sqlite:///{tmp_path}/dbb.sqlite"
        [target.gen3]
        storage = "{tmp_path}/storage"
        plugin = "butler-gen3"
        [target.gen3.config]
        repo = "{tmp_path}/repo"
        run = "raw/{{instrument}}"
        [target.null]
        storage = "{tmp_path}/storage"
        plugin = "null"
        """
    )
    return path


@pytest.mark.parametrize("label", [["target.gen3"], []], ids=["named", "the only one"])
def test_repository_of_a_target(configured: Path, label: list[str]) -> None:
    pytest.importorskip("lsst.daf.butler", reason=BUTLER)
    command = ["dbb", "butler", "prepare", *label, "-c", configured, "--instrument", "LATISS"]
    code, out, err = run_script(*command)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"repository {configured.parent}/repo",
        "instrument LATISS",
        "1 detectors of LATISS",
        "707 filters of LATISS",
        "dataset type raw (RawFits)",
        "collection raw/LATISS",
    ]
    code, out, err = run_script(*command)
    assert (code, out, err) == (0, f"{configured.parent}/repo is ready for LATISS\n", "")


def test_target_with_the_stacks_task_gets_what_that_takes(configured: Path) -> None:
    pytest.importorskip("lsst.daf.butler", reason=BUTLER)
    content = configured.read_text()
    task = 'task = "lsst.obs.base.RawIngestTask"'
    configured.write_text(content.replace("[target.null]", f"{task}\n        [target.null]"))
    command = ["dbb", "butler", "prepare", "target.gen3", "-c", configured]
    code, out, err = run_script(*command, "--instrument", "LATISS")
    assert (code, err) == (0, "")
    assert "dataset type raw (Exposure)" in out


def test_records_that_differ_are_explained_and_updated(configured: Path) -> None:
    pytest.importorskip("lsst.daf.butler", reason=BUTLER)
    from lsst.daf.butler import Butler

    command = ["dbb", "butler", "prepare", "target.gen3", "-c", configured]
    command += ["--instrument", "LATISS"]
    assert run_script(*command)[0] == 0
    row = {"instrument": "LATISS", "name": "empty~empty", "band": "e"}
    butler = Butler.from_config(str(configured.parent / "repo"), writeable=True)
    butler.registry.syncDimensionData("physical_filter", row, update=True)
    code, _, err = run_script(*command)
    assert code == 78
    assert "'e' != 'white'" in err
    assert run_script(*command, "--update") == (0, "1 filters of LATISS\n", "")


def test_repository_without_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("lsst.daf.butler", reason=BUTLER)
    repo = tmp_path / "repo"
    code, out, err = run_script(
        "dbb", "butler", "prepare", "--repo", repo, "--instrument", "HSC", "--run", "HSC/all"
    )
    assert (code, err) == (0, "")
    assert "collection HSC/all" in out


def test_unknown_instrument(tmp_path: Path) -> None:
    pytest.importorskip("lsst.daf.butler", reason=BUTLER)
    repo = tmp_path / "repo"
    code, _, err = run_script("dbb", "butler", "prepare", "--repo", repo, "--instrument", "Nobody")
    assert code == 78
    assert "instrument 'Nobody' is not known" in err
    assert not repo.exists()


def test_target_of_another_plugin(configured: Path) -> None:
    code, _, err = run_script(
        "dbb", "butler", "prepare", "target.null", "-c", configured, "--instrument", "HSC"
    )
    assert code == 64
    assert 'target.null is not a target with plugin = "butler-gen3"' in err
