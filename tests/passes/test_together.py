"""A finder, the auditor and a backfill at the same time over one storage area."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from dbbbatch.database import connect
from tests.support.scripts import TOP
from tests.support.site import Site, tree

PASSES = {
    "finder": ["dbb-finder", "latiss"],
    "auditor": ["dbb-auditor", "latiss", "--adopt", "--share", "1"],
    "backfill": ["dbb", "backfill", "finder.latiss"],
}
ROUNDS = 3


def at_once(site: Site) -> dict[str, subprocess.CompletedProcess[str]]:
    """Make all passes at the same time."""
    started = {
        name: subprocess.Popen(
            [sys.executable, TOP / "bin" / script, *rest],
            env={"DBB_CONFIG": str(site.config), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (script, *rest) in PASSES.items()
    }
    ended = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=120)
        ended[name] = subprocess.CompletedProcess(PASSES[name], process.returncode, out, err)
    return ended


@pytest.mark.promise
def test_no_good_file_is_called_wrong_none_recorded_twice_nothing_lost(site: Site) -> None:
    site.write(targets={"a": {}}, finder={"batch_files": 20, "audit_rate": 0, "retry_wait": 0})
    assert site.run("dbb-ingester").code == 0
    expected: dict[str, bytes] = {}
    for round_ in range(ROUNDS):
        files = {f"{round_}/{n}.fits": f"{round_} {n}".encode() for n in range(100)}
        for number, (rel, content) in enumerate(files.items()):
            # Some are found, and some are there already and not known.
            site.put(rel, content, site.far_buffer if number % 3 else site.storage)
        expected |= files
        if round_:
            # Storage lost one, which is delivered once more.
            (site.storage / "0/1.fits").unlink()
            site.put("0/1.fits", b"0 1", site.far_buffer)
        ended = at_once(site)
        said = "".join(each.stderr for each in ended.values())
        # The auditor may see that one is not there, before it is, and the finder that its row is
        # changed by the auditor: then it leaves the file to its next pass.
        assert ended["backfill"].returncode == 0, said
        assert {ended["finder"].returncode, ended["auditor"].returncode} <= {0, 1}, said
        assert not re.findall(r"\S+\.fits", said.replace("0/1.fits", "")), said
        assert site.run("dbb-finder").code == 0
    assert site.run("dbb-auditor", "--share", "1").code == 0
    assert tree(site.storage) == expected
    assert tree(site.far_buffer) == tree(site.storage_quarantine) == {}
    connect.connect(site.settings().database)
    rows = connect.execute("SELECT relpath, filename, status FROM file").fetchall()
    states = connect.execute("SELECT status, count(*) FROM ingest_state GROUP BY status").fetchall()
    connect.disconnect()
    assert Counter(f"{relpath}/{name}" for relpath, name, _ in rows) == Counter(list(expected))
    assert {status for _, _, status in rows} == {"STORED"}
    assert sum(count for _, count in states) == len(expected)
