"""An audit whose files four workers hash, against one worker, and the bound of the machine.

Wanted: at least 1.6 times as fast, or as much as the processors give to four plain processes that
hash the same files, against one of them. All sides run in turn.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import measure

#: Hashes a share of files, as `dbb-auditor` does.
HASH = """
import sys
from dbbbatch.files import checksum
from dbbbatch.files.tree import Tree
number, of, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
with Tree(directory) as tree:
    for name in sorted(tree.names())[number::of]:
        if name.endswith(".fits"):
            checksum.compute(tree.entry(name))
"""


def main() -> None:
    """Print the tables."""
    given = measure.arguments(__doc__)
    from dbbbatch.config import toml
    from tests.support.database import initialise
    from tests.support.engine import Cluster
    from tests.support.site import Site

    files, size = (64 if given.quick else 640), 4 << 20
    with measure.working_directory(given.directory) as directory:
        site = Site(directory / "site", f"sqlite:///{directory}/dbb.sqlite")
        initialise(site.database_url)
        site.write(finder={"audit_rate": 0}, targets={})
        text = site.config.read_text()
        for number in range(files):
            site.put(f"{number}.fits", os.urandom(size), site.storage)
        assert site.run("dbb", "backfill", "finder.latiss").code == 0
        clusters = {count: Cluster(directory / f"cluster {count}", count) for count in (1, 4)}
        try:

            def audit(workers: int) -> measure.Cost:
                site.config.write_text(
                    text + toml.toml_document({"executor": clusters[workers].section(wait="10min")})
                )
                command = [*measure.script("dbb-auditor"), "--share", "1", "-v"]
                with measure.metered() as meter:
                    ran = subprocess.run(
                        [*command, "-c", str(site.config)], capture_output=True, text=True
                    )
                assert f"workers dealt with {files} of {files} files" in ran.stderr, ran.stderr
                return meter.cost

            sides: dict[str, Callable[[], measure.Cost]] = {}
            for count in clusters:
                sides[f"audit by {count}"] = lambda count=count: audit(count)  # type: ignore[misc]
            for count in clusters:
                sides[f"hash by {count}"] = lambda count=count: hash_by(count, site.storage)  # type: ignore[misc]
            measure.in_turn(sides, 1)
            times = measure.in_turn(sides, given.repeats)
        finally:
            for cluster in clusters.values():
                cluster.stop()
        amount = files * size / 1e6
        gains = []
        for kind in ("audit", "hash"):
            some = {name: costs for name, costs in times.items() if name.startswith(kind)}
            measure.show(f"{kind}, {amount:.0f} MB", some, f"{kind} by 1", amount=amount, unit="MB")
            one, four = (statistics.median(each.wall for each in costs) for costs in some.values())
            gains.append(one / four)
        print(
            f"\n{os.cpu_count()} processors. Four workers are {gains[0]:.2f} times as fast as one;"
            f" the machine's bound: four plain processes, without dask, are {gains[1]:.2f} times as"
            f" fast as one. The engine has {gains[0] / gains[1]:.2f} of the bound."
        )


def hash_by(count: int, directory: Path) -> measure.Cost:
    """Hash all files in so many processes."""
    with measure.metered() as meter:
        started = [
            subprocess.Popen([sys.executable, "-c", HASH, str(number), str(count), str(directory)])
            for number in range(count)
        ]
        assert [process.wait() for process in started] == [0] * count
    return meter.cost


if __name__ == "__main__":
    main()
