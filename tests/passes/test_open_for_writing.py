"""A file that its writer has open is not taken, although it does not change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dbbbatch.files import checksum, mounts
from dbbbatch.files.tree import outside
from tests.support.handing import rows
from tests.support.scripts import TOP
from tests.support.site import Site, tree
from tests.support.writer import writing

NAME = "2026-11-24/stalls.fits"


@pytest.fixture(autouse=True)
def _leases(tmp_path: Path) -> None:
    """Skip where the kernel does not tell whether a file is open for writing."""
    path = tmp_path / "leased"
    with path.open("w"):
        if not checksum.is_being_written(outside(str(path))):
            pytest.skip("no leases on the file system of the temporary directory")


@pytest.fixture(params=[False, True], ids=["one_file_system", "two"])
def source(request: pytest.FixtureRequest, site: Site, other_file_system: Path) -> Path:
    """Return a finder's source, on storage's file system or on another one."""
    if request.param:
        site.far_buffer = other_file_system
    site.write(finder={"source": site.far_buffer}, endpoint={"buffer": site.root / "elsewhere"})
    return site.far_buffer


@pytest.mark.promise
def test_a_finder_takes_it_when_it_is_closed(site: Site, source: Path) -> None:
    site.put("2026-11-24/whole.fits", b"whole", source)
    with writing(source / NAME) as writer:
        assert site.run("dbb-finder") == (0, "", "")
        assert tree(site.storage) == {"2026-11-24/whole.fits": b"whole"}
        assert tree(source) == {NAME: b"half"}
        writer.write()
    assert site.run("dbb-finder") == (0, "", "")
    assert tree(site.storage) == {"2026-11-24/whole.fits": b"whole", NAME: b"halfhalf"}
    assert tree(source) == {}


@pytest.mark.promise
def test_a_handoff_takes_it_when_it_is_closed(site: Site) -> None:
    site.put("2026-11-24/whole.fits", b"whole")
    with writing(site.buffer / NAME) as writer:
        assert site.run("dbb-handoff") == (0, "", "")
        assert tree(site.far_buffer) == {"2026-11-24/whole.fits": b"whole"}
        assert tree(site.buffer) == {NAME: b"half"}
        writer.write()
    assert site.run("dbb-handoff") == (0, "", "")
    assert tree(site.far_buffer) == {"2026-11-24/whole.fits": b"whole", NAME: b"halfhalf"}
    assert tree(site.holding) == tree(site.far_buffer)


@pytest.mark.parametrize("script", ["dbb-handoff", "dbb-finder"])
def test_it_does_not_make_a_lingering_pass_begin_again(site: Site, script: str) -> None:
    where = site.buffer if script == "dbb-handoff" else site.far_buffer
    with writing(where / NAME):
        assert site.run(script, "--linger", "2") == (0, "", "")
    assert len(rows(site, "id", "run")) == 1


def test_a_reader_of_it_keeps_nobody_waiting(site: Site) -> None:
    path = site.put(NAME)
    with path.open("rb"):
        assert not checksum.is_being_written(outside(str(path)))


@pytest.mark.parametrize(("kind", "waits"), [("ext4", True), ("nfs4", False), ("cifs", False)])
def test_what_a_network_file_system_says_of_a_lease_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, waits: bool
) -> None:
    # There the kernel refuses any lease as it does for a writer, unless the file is delegated.
    monkeypatch.setattr(mounts, "kind_of", lambda _: kind)
    path = tmp_path / "file"
    with path.open("w"):
        assert checksum.is_being_written(outside(str(path))) == waits


@pytest.mark.parametrize(("path", "kind"), [("/proc/self/mountinfo", "proc"), ("/sys", "sysfs")])
def test_the_kind_of_a_file_system_is_that_of_its_mount(path: str, kind: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert mounts.kind_of(descriptor) == kind
    finally:
        os.close(descriptor)


def test_what_somebody_else_holds_a_lease_of_is_looked_at_later(tmp_path: Path) -> None:
    path = tmp_path / "leased elsewhere"
    path.write_text("x")
    holder = (
        "import fcntl, signal, sys\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        f"file = open({str(path)!r}, 'r+')\n"
        "fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(checksum.Changed):
            checksum.open_regular(str(path))
        assert process.stdin
        process.stdin.close()


def test_no_lease_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    descriptor = checksum.open_closed(outside(str(path)))
    # Were it kept, this would fail at once with EWOULDBLOCK.
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    os.close(descriptor)


def test_the_signal_of_a_lease_does_not_end_a_pass() -> None:
    program = (
        "import os, signal\n"
        "from dbbbatch.passes.signals import Signals\n"
        "with Signals() as signals:\n"
        "    os.kill(os.getpid(), signal.SIGIO)\n"
        "    print('goes on', signals.seen)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "goes on 0\n"), signal.strsignal(-done.returncode)
