"""`dbb demo --targets` ingests the same file into real systems."""

import json
from pathlib import Path

import pytest

from tests.support.scripts import run_script
from tests.targets.rucio.server import environment


@pytest.mark.promise
def test_one_file_is_ingested_by_the_butler_and_by_rucio(tmp_path: Path) -> None:
    pytest.importorskip("lsst.daf.butler")
    pytest.importorskip("rucio.client")
    server = environment()
    if isinstance(server, str):
        pytest.skip(server)
    sites = tmp_path / "sites"
    ran = run_script(
        "dbb", "demo", sites, "--targets", "butler-gen3,rucio", "--rucio-server", server
    )
    assert (ran.code, ran.err) == (0, "")
    first = next((sites / "archive" / "storage").rglob("*_000001_*.fits")).name
    shown = run_script("dbb", "history", "-c", sites / "archive.toml", first, "--json")
    targets = json.loads(shown.out)[0]["targets"]
    found = {name: target["status"] for name, target in targets.items()}
    assert found == dict.fromkeys(("butler", "by-night", "catalog", "rucio"), "SUCCESS")


def test_a_target_that_is_not_known_is_a_usage_error(tmp_path: Path) -> None:
    code, _, err = run_script("dbb", "demo", tmp_path / "sites", "--targets", "irods")
    assert code == 64
    assert "butler-gen3, rucio" in err


def test_what_must_be_installed_is_said(tmp_path: Path) -> None:
    # A directory that shadows the package, as if it were not installed.
    (tmp_path / "lsst.py").write_text("raise ImportError(name='lsst')")
    code, _, err = run_script(
        "dbb",
        "demo",
        tmp_path / "sites",
        "--targets",
        "butler-gen3",
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert code == 78
    assert "pip install 'dbbbatch[butler]'" in err
