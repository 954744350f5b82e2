"""The plugins for real systems: a Gen3 Butler and Rucio, against the bare calls of their libraries.

Wanted: 500 files with headers into Gen3 (SQLite) within 1.3 times of the bare calls, with imports
and process start in both (`butler-command`) or in neither (`butler`); 500 files registered with
Rucio within 1.5 times of the bare calls, in three of them. They need the extras butler and rucio,
and an environment with a Rucio server as the tests make it.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import history
import measure
import targets_floor

PARTS = ("butler", "butler-command", "rucio")
FILES = 500
TARGET = "gen3"


class Butlers:
    """Files of two cameras and a prepared repository, copied for each run."""

    def __init__(self, directory: Path, files: int) -> None:
        from dbbbatch.config import fields
        from dbbbatch.targets.butler.prepare import prepare
        from dbbbatch.targets.butler.settings import Gen3Settings
        from tests.targets import observations

        self._directory = directory
        self._numbers = 0
        self._prepared = directory / "prepared"
        for camera in ("LSSTCam", "LATISS"):
            list(prepare(fields.defaults(Gen3Settings, repo=str(self._prepared)), camera))
        for number in range(files):
            observations.latiss(directory / "latiss", 20251123, number + 1)
            raft, slot = divmod(number % 125, 9)
            cards = observations.rubin(
                observations.LSSTCAM,
                20250501,
                1 + number // 125,
                RAFTBAY=RAFTS[raft],
                CCDSLOT=f"S{slot // 3}{slot % 3}",
            )
            observations.write(directory / "lsstcam" / f"{number:04}.fits", cards)

    def files(self, camera: str) -> list[Path]:
        """All files of a camera."""
        return sorted((self._directory / camera).rglob("*.fits"))

    def repo(self) -> Path:
        """A repository that holds no files yet."""
        self._numbers += 1
        copy = self._directory / f"repo-{self._numbers}"
        return Path(shutil.copytree(self._prepared, copy))

    def plugin(self, camera: str) -> measure.Cost:
        """The plugin's `start` and `ingest`, in this process."""
        from tests.targets import offering

        repo, files = self.repo(), self.files(camera)
        with (
            measure.metered() as meter,
            offering.started("butler-gen3", self._directory, repo=str(repo)) as plugin,
        ):
            outcomes = offering.offered(plugin, *files)
        _check(offering.results(outcomes), len(files))
        return meter.cost

    def bare(self, camera: str) -> measure.Cost:
        """The bare calls, in this process."""
        repo, files = self.repo(), [str(path) for path in self.files(camera)]
        with measure.metered() as meter:
            targets_floor.butler(str(repo), files)
        return meter.cost

    def command(self, camera: str, url: str) -> measure.Cost:
        """A whole pass of dbb-ingester over files that are due."""
        from tests.support.site import Site

        repo = self.repo()
        site = Site(self._directory / f"site-{self._numbers}", url)
        site.storage = self._directory / camera
        (site.storage / ".dbb-storage").touch()
        target = {"plugin": "butler-gen3", "config": {"repo": repo}}
        site.write(targets={TARGET: target})
        rels = [str(path.relative_to(site.storage)) for path in self.files(camera)]
        size = self.files(camera)[0].stat().st_size
        history.due(url, site.storage, TARGET, rels, size)
        return measure.cost([*measure.script("dbb-ingester"), "-c", str(site.config), TARGET])

    def bare_command(self, camera: str) -> measure.Cost:
        """The bare calls as a program."""
        script = Path(targets_floor.__file__)
        arguments = [str(self.repo()), str(self._directory / camera)]
        return measure.cost([sys.executable, str(script), *arguments])


RAFTS = [
    f"R{a}{b}" for a in range(5) for b in range(5) if f"{a}{b}" not in ("00", "04", "40", "44")
]
CAMERAS = {"lsstcam": "4 exposures of LSSTCam", "latiss": "each an exposure of LATISS"}


def butler(directory: Path, files: int, repeats: int) -> None:
    """In one process, all imported."""
    from dbbbatch.targets.butler import headers

    headers.load_translators()
    made = Butlers(directory, files)
    made.plugin("lsstcam")
    for camera, words in CAMERAS.items():
        times = measure.in_turn(
            {
                "bare calls": lambda c=camera: made.bare(c),
                "butler-gen3": lambda c=camera: made.plugin(c),
            },
            repeats,
        )
        measure.show(
            f"{files} files into Gen3 on SQLite, {words}",
            times,
            "bare calls",
            wanted={"butler-gen3": "<= 1.3"},
            amount=files,
            unit="files",
        )


def butler_command(directory: Path, files: int, repeats: int) -> None:
    """Whole programs."""
    made = Butlers(directory, files)
    with measure.databases(directory / "databases") as databases:

        def ingester(camera: str) -> measure.Cost:
            place = directory / f"database-{time.monotonic_ns()}"
            place.mkdir()
            with databases.fresh("sqlite", place) as url:
                return made.command(camera, url)

        for camera, words in CAMERAS.items():
            times = measure.in_turn(
                {
                    "bare calls": lambda c=camera: made.bare_command(c),
                    "dbb-ingester": lambda c=camera: ingester(c),
                },
                repeats,
            )
            measure.show(
                f"{files} files into Gen3 on SQLite, {words}, imports and process start included",
                times,
                "bare calls",
                wanted={"dbb-ingester": "<= 1.3"},
                amount=files,
                unit="files",
            )


class Calls:
    """Counts the calls of a client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.made: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        self.made[name] += 1
        return getattr(self._client, name)


def rucio(directory: Path, files: int, repeats: int) -> None:
    """Registration of files whose checksums are known, in datasets that are there."""
    from rucio.client import Client

    from dbbbatch.targets.rucio.server import ACCOUNT, PASSWORD, USER
    from tests.targets import offering
    from tests.targets.rucio.server import RucioServer, environment

    found = environment()
    if isinstance(found, str):
        raise RuntimeError(found)
    (directory / "server").mkdir()
    server = RucioServer(found, directory / "server")
    server.start()
    try:
        login = {"username": USER, "password": PASSWORD}
        client = Client(
            rucio_host=server.url,
            auth_host=server.url,
            account=ACCOUNT,
            auth_type="userpass",
            creds=login,
        )
        operations = {"read": 1, "write": 1, "delete": 1}
        client.add_rse("BENCH", deterministic=False, rse_type="DISK")
        protocol = {
            "scheme": "file",
            "hostname": "localhost",
            "port": 0,
            "prefix": f"{directory}/",
            "impl": "rucio.rse.protocols.posix.Default",
            "domains": {"lan": operations, "wan": operations},
        }
        client.add_protocol("BENCH", protocol)
        content = b"data" * 1000
        sums = {
            "adler32": f"{zlib.adler32(content):08x}",
            "md5": hashlib.md5(content).hexdigest(),
        }
        paths = [directory / "storage" / f"{number}.fits" for number in range(files)]
        paths[0].parent.mkdir()
        for path in paths:
            path.write_bytes(content)
        scopes = iter(f"scope{number}" for number in range(1000))
        calls: list[dict[str, int]] = []

        def new() -> str:
            scope = next(scopes)
            client.add_scope(ACCOUNT, scope)
            client.add_dataset(scope, "night")
            return scope

        def bare() -> measure.Cost:
            scope = new()
            described = [
                {"scope": scope, "name": path.name, "bytes": len(content), **sums}
                | {"pfn": f"file://localhost{path}"}
                for path in paths
            ]
            with measure.metered() as meter:
                targets_floor.rucio(client, "BENCH", scope, "night", described)
            return meter.cost

        def plugin() -> measure.Cost:
            scope = new()
            config = {"url": server.url, "account": ACCOUNT, **login, "rse": "BENCH"}
            config |= {"scope": scope, "dataset": "night"}
            with offering.started("rucio", paths[0].parent, **config) as started:
                started._registrar._client = Calls(started._registrar._client)
                with measure.metered() as meter:
                    outcomes = offering.offered(
                        started, *paths, storage=paths[0].parent, checksums=sums
                    )
                calls.append(dict(started._registrar._client.made))
            _check(offering.results(outcomes), files)
            return meter.cost

        times = measure.in_turn({"bare calls": bare, "rucio": plugin}, repeats)
    finally:
        server.stop()
    measure.show(
        f"{files} files registered with Rucio on SQLite",
        times,
        "bare calls",
        wanted={"rucio": "<= 1.5"},
        amount=files,
        unit="files",
    )
    print(f"  calls: {calls[-1]} (wanted: 3 in all)")


def _check(results: list[str], files: int) -> None:
    if results != ["done"] * files:
        raise RuntimeError(f"{files} files: {Counter(results)}")


def main() -> None:
    """Run the parts asked for."""
    given = measure.arguments(__doc__, PARTS)
    for part in given.part or PARTS:
        with measure.working_directory(given.directory) as directory:
            run = {"butler": butler, "butler-command": butler_command, "rucio": rucio}[part]
            run(directory, FILES // 10 if given.quick else FILES, given.repeats)


if __name__ == "__main__":
    main()
