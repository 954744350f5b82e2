"""A handoff killed before any change is made good by one clean pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.config import toml
from tests.killing import picture
from tests.killing.supervisor import supervise
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.endpoints import base
from tests.support.handing import receiving
from tests.support.scripts import TOP
from tests.support.site import Site
from tests.support.ssh import SshServer

pytestmark = pytest.mark.promise

#: two directories, more than one batch, a name that holding has already, and one to be left
FILES = {
    **{f"2026-11-{night:02}/image {number}.fits": b"data" for night in (1, 2) for number in (1, 2)},
    "2026-11-02/unfinished.tmp": b"left out by a pattern",
}
HELD = "2026-11-01/image 1.fits"
WHEN = 1_795_000_000
LONG = bytes(range(256)) * 2000
KEYS = {"batch_files": 3, "exclude": [r"\.tmp$"], "min_free": 0, "streams": 1}

Make = Callable[[Path], AbstractContextManager[Site]]


def sites(
    databases: Databases,
    backend: str,
    ssh: SshServer | None = None,
    endpoint: Mapping[str, str] | None = None,
    receiver: bool = False,
    **keys: Any,
) -> Make:
    """Sites with the files in the buffer, and an earlier version of one in holding."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            site = Site(directory / "site", url, ssh)
            more = {"remote": receiving(site.far_buffer.parent, directory / "receive.toml")}
            site.write(
                handoff={**KEYS, **keys},
                endpoint={**(endpoint or {}), **(more if receiver else {})},
            )
            for path, content in FILES.items():
                os.utime(site.put(path, content), (WHEN, WHEN))
            site.put(HELD, b"another night", site.holding)
            yield site

    return make


def command(site: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-handoff"), "-c", str(site.config)]


def find(site: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-finder"), "-c", str(site.config)]


def look(site: Site) -> Mapping[str, Any]:
    return picture.disk(site.root) | picture.tables(site.database_url, site.root)


def test_a_handoff_by_cp(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    sweep(sites(databases, backend), command, look, every=16)


@pytest.mark.parametrize("way", ["cp -p -- {batch} {dest}", ""])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_to_two_endpoints(
    sweep: Callable[..., Swept], databases: Databases, backend: str, way: str
) -> None:
    # One pass after the other: each may find what that of the other left.
    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with sites(databases, backend, endpoint={"transfer": way})(directory) as site:
            table = {"buffer": base(site), "staging": base(site, "staging"), "transfer": way}
            for name in ("buffer", "staging"):
                base(site, name).mkdir(parents=True)
            with site.config.open("a") as file:
                file.write(toml.toml_document({"handoff.latiss.endpoint.base": table}))
            yield site

    swept = sweep(make, command, look, every=32)
    assert {
        "base/buffer/2026-11-01/image 1.fits",
        "summit/holding/2026-11-01/image 1.fits.~1~",
    } <= (swept.seen.keys())


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_to_a_receiver(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # The receiver is killed with the pass, before any of its own changes, too.
    sweep(sites(databases, backend, receiver=True), command, look, every=16)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_to_a_receiver_that_lives_on(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # As after a cut connection: it goes on with what it was told, beside the next pass.
    make = sites(databases, backend, receiver=True)
    sweep(make, command, look, every=16, streams=True, spare=["env", "dbb"])


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_by_two_streams(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, streams=2, batch_files=1)
    sweep(make, command, look, every=64)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_whose_files_the_finder_takes_at_once(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # It does so before the next pass asks what came of them: none is placed a second time.
    swept = sweep(sites(databases, backend), command, look, then=find, every=16)
    names = [name for name in FILES if not name.endswith(".tmp")]
    assert {f"archive/storage/{name}" for name in names} <= swept.seen.keys()
    assert not {f"archive/buffer/{name}" for name in names} & swept.seen.keys()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_by_rsync_over_ssh(
    sweep: Callable[..., Swept], databases: Databases, backend: str, ssh_server: SshServer
) -> None:
    # The far end is no child of the pass: it lives on, and goes on with what it was told.
    make = sites(databases, backend, ssh_server, {"transfer": ssh_server.rsync})
    # Each thing said to it counts too: the conversation breaks off anywhere.
    sweep(make, command, look, every=16, streams=True)


@pytest.mark.parametrize("backend", ["sqlite"])
class TestByTheStream:
    """What is read of a file becomes known only while it is sent."""

    #: No command: the built-in stream.
    STREAM: Mapping[str, str] = {"transfer": ""}

    def test_on_one_machine(
        self, sweep: Callable[..., Swept], databases: Databases, backend: str
    ) -> None:
        sweep(sites(databases, backend, endpoint=self.STREAM), command, look, every=16)

    def test_over_ssh(
        self,
        sweep: Callable[..., Swept],
        databases: Databases,
        backend: str,
        ssh_server: SshServer,
    ) -> None:
        # The far end lives on, and the conversation breaks off anywhere, also within the stream.
        make = sites(databases, backend, ssh_server, self.STREAM)
        sweep(make, command, look, every=16, streams=True)

    @pytest.mark.parametrize("spare", [[], ["env", "dbb"]])
    def test_to_a_receiver(
        self,
        sweep: Callable[..., Swept],
        databases: Databases,
        backend: str,
        spare: list[str],
    ) -> None:
        make = sites(databases, backend, endpoint=self.STREAM, receiver=True)
        sweep(make, command, look, every=16, streams=bool(spare), spare=spare)

    def test_by_several_at_a_time(
        self, sweep: Callable[..., Swept], databases: Databases, backend: str
    ) -> None:
        # As many as the line needs.
        make = sites(databases, backend, endpoint=self.STREAM, streams=None, batch_files=1)
        sweep(make, command, look, every=32)

    def test_with_files_that_the_finder_takes_at_once(
        self, sweep: Callable[..., Swept], databases: Databases, backend: str
    ) -> None:
        # Before the next pass asks what came of them: none is placed a second time.
        make = sites(databases, backend, endpoint=self.STREAM)
        swept = sweep(make, command, look, then=find, every=16)
        assert not {f"archive/buffer/{name}" for name in FILES} & swept.seen.keys()

    @pytest.mark.parametrize("receiver", [False, True])
    def test_with_a_long_file_that_is_continued(
        self,
        sweep: Callable[..., Swept],
        databases: Databases,
        backend: str,
        receiver: bool,
        tmp_path: Path,
    ) -> None:
        @contextmanager
        def whole(directory: Path) -> Iterator[Site]:
            endpoint, keys = self.STREAM, {"resume_from": 100_000}
            with sites(databases, backend, None, endpoint, receiver, **keys)(directory) as site:
                for path in FILES:
                    (site.buffer / path).unlink()
                os.utime(site.put("long", LONG), (WHEN, WHEN))
                yield site

        with whole(tmp_path) as site:
            calls = supervise(command(site), trace=True).calls
        writes = [
            call.number for call in calls if call.name == "write" and "/t/long" in call.paths[0]
        ]

        @contextmanager
        def make(directory: Path) -> Iterator[Site]:
            # A pass before left a part of it in staging.
            with whole(directory) as site:
                supervise(command(site), kill_at=writes[1])  # one of them may be half of it
                (part,) = site.staging.glob("*/t/long")
                assert 0 < part.stat().st_size < len(LONG)
                yield site

        swept = sweep(make, command, look, every=16, streams=True)
        assert "archive/buffer/long" in swept.seen

    def test_with_files_that_are_there_already(
        self, sweep: Callable[..., Swept], databases: Databases, backend: str
    ) -> None:
        # They are read to be compared, and not sent.
        @contextmanager
        def make(directory: Path) -> Iterator[Site]:
            with sites(databases, backend, endpoint=self.STREAM)(directory) as site:
                site.put(HELD, b"data", site.far_buffer)
                yield site

        sweep(make, command, look, every=16)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_handoff_that_gives_up_a_file(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # One of two files never arrives: it is found by halves, and moved aside with its reason.
    tool = 'sh -c \'for f; do case $f in *"image 2"*) exit 9;; esac; done; cp -p -- "$@"\' sh'
    endpoint = {"transfer": f"{tool} {{batch}} {{dest}}"}
    make = sites(databases, backend, endpoint=endpoint, max_attempts=1)
    sweep(make, command, look, exit_codes=(0, 1), every=48)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(("sends", "exit_codes"), [("*/.dbb~probe-*", (0, 1)), ("nothing", (75,))])
def test_a_handoff_whose_command_sends_none_of_its_files(
    sweep: Callable[..., Swept],
    databases: Databases,
    backend: str,
    sends: str,
    exit_codes: tuple[int, ...],
) -> None:
    # Before any of them is blamed, a file of ours is sent: it arrives, or it does not either.
    tool = f"sh -c 'for f; do case $f in {sends}) exec cp -p -- \"$@\";; esac; done; exit 9' sh"
    endpoint = {"transfer": f"{tool} {{batch}} {{dest}}"}
    make = sites(databases, backend, endpoint=endpoint, max_attempts=1)
    sweep(make, command, look, exit_codes=exit_codes, every=64)
