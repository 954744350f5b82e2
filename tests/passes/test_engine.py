"""Workers of dask.distributed on this machine: what befalls them is charged to no file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Executor
from dbbbatch.files.temporary import UNIT_PREFIX
from dbbbatch.passes import runner
from dbbbatch.passes.auditor.work import AuditorWork
from dbbbatch.passes.backfill import BackfillWork
from tests.support.engine import Cluster
from tests.support.finding import Finding, tree

pytestmark = pytest.mark.promise

FILES = {
    "2026-11-24/image 1.fits": b"one",
    "2026-11-24/a\nb": b"two",
    os.fsdecode(b"2026-11-25/\xff\xfe"): b"three",
    "2026-11-25/empty": b"",
    "x" * 255: b"four",
}


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Yield a scheduler without workers, reached by TLS, that a test may kill."""
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    made = Cluster(tmp_path / "cluster", workers=0, tls=True)
    yield made
    made.stop()


def using(settings: Settings, cluster: Cluster, **keys: Any) -> Settings:
    return replace(settings, executor=defaults(Executor, **cluster.section(**keys)))


@pytest.fixture
def finding(
    settings: Settings, tmp_path: Path, other_file_system: Path, cluster: Cluster
) -> Finding:
    made = Finding(using(settings, cluster), tmp_path, other_file_system, min_free=0)
    for rel, content in FILES.items():
        made.put(rel, content)
    return made


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def by_workers(caplog: pytest.LogCaptureFixture) -> int:
    """Return how many files workers dealt with, according to the log."""
    return sum(
        record.args[0]
        for record in caplog.records
        if record.msg.startswith("workers dealt with") and isinstance(record.args, tuple)
    )


def test_workers_copy_read_and_verify_files_of_any_name(
    finding: Finding, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "dbbbatch")
    assert finding.run() == 0
    assert (tree(finding.source), tree(finding.storage)) == ({}, FILES)
    assert by_workers(caplog) == len(FILES)
    for work in (AuditorWork(finding.finder, share=1), BackfillWork(finding.finder)):
        finding.put("2026-11-26/new", b"new", finding.storage)
        caplog.clear()
        assert runner.run_pass(work, finding.settings, finding.finder, runner.Options()) < 2
        assert by_workers(caplog) == (len(FILES) if isinstance(work, AuditorWork) else 1)
    assert "executor" not in capsys.readouterr().err


def test_of_a_worker_only_right_content_is_believed(finding: Finding) -> None:
    assert finding.run() == 0
    stored = finding.storage / "2026-11-24/image 1.fits"
    stored.chmod(0o644)
    stored.write_bytes(b"ONE")
    work = AuditorWork(finding.finder, share=1)
    assert runner.run_pass(work, finding.settings, finding.finder, runner.Options()) == 1
    assert finding.rows("SELECT filename FROM file WHERE status = 'CORRUPT'") == [("image 1.fits",)]


def test_a_worker_killed_with_a_copy_done_makes_its_unit_run_twice(
    finding: Finding, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def kill() -> None:
        cluster.kill(cluster.waiting("copied")[0])
        seen.extend(name for _, _, names in os.walk(finding.storage) for name in names)
        cluster.open("copied")

    cluster.gate("copied")
    killer = meanwhile(kill)
    code = finding.run()
    killer.join()
    cluster.workers.append(cluster.add_worker())
    assert (code, capsys.readouterr().err) == (0, "")
    assert any(name.startswith(UNIT_PREFIX) for name in seen)
    assert (tree(finding.source), tree(finding.storage)) == ({}, FILES)


def test_a_killed_scheduler_is_said_once_and_threads_do_the_rest(
    finding: Finding,
    settings: Settings,
    cluster: Cluster,
    own_cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_cluster.workers.append(own_cluster.add_worker())
    finding.settings = using(settings, own_cluster)
    own_cluster.gate("copied")

    def kill() -> None:
        own_cluster.waiting("copied")
        own_cluster.scheduler.kill()

    killer = meanwhile(kill)
    code = finding.run()
    killer.join()
    assert code == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("finder.latiss: [executor]: the scheduler ")
    assert line.endswith("; threads of the pass do the rest")
    assert (tree(finding.source), tree(finding.storage)) == ({}, FILES)
    # A pass that asks no worker does not know whether that is over.
    assert (finding.run(), capsys.readouterr().err) == (0, "")
    assert finding.rows("SELECT COUNT(*) FROM file WHERE status = 'STORED'") == [(len(FILES),)]
    finding.settings = using(settings, cluster)
    finding.put("new")
    assert finding.run() == 0
    assert capsys.readouterr().err.startswith("finder.latiss: is over: [executor]: the scheduler ")


def test_workers_of_another_version_are_not_used(
    finding: Finding,
    settings: Settings,
    own_cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own_cluster.workers.append(own_cluster.add_worker(WORKER_VERSION="0.0.9"))
    finding.settings = using(settings, own_cluster)
    assert finding.run() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no worker can be used (worker tls://127.0.0.1:" in line
    assert " has dbbbatch 0.0.9, and not " in line
    assert tree(finding.storage) == FILES


def test_a_scheduler_that_is_not_there_is_said_once(
    finding: Finding, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"kind": "dask", "scheduler": "tcp://127.0.0.1:9", "least": 0, "wait": 1}
    finding.settings = replace(settings, executor=defaults(Executor, **section))
    assert finding.run() == 0
    assert capsys.readouterr().err.count("\n") == 1
    assert tree(finding.storage) == FILES


def test_few_bytes_are_read_by_the_pass_itself(
    finding: Finding, settings: Settings, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbbbatch")
    finding.settings = using(settings, cluster, least="1 MB")
    assert finding.run() == 0
    assert (by_workers(caplog), tree(finding.storage)) == (0, FILES)


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("tcp://archive.example.org:8786", "who reaches a scheduler without TLS"),
        ("", "exit code 0"),
    ],
)
def test_a_command_must_print_the_address_of_a_scheduler_that_is_safe(
    finding: Finding,
    settings: Settings,
    printed: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    section = {"kind": "dask", "command": f"echo {printed}", "least": 0}
    finding.settings = replace(settings, executor=defaults(Executor, **section))
    assert finding.run() == 0
    assert said in capsys.readouterr().err
    assert tree(finding.storage) == FILES
