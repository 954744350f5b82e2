"""Disks of a test's own, mounted for as long as the test needs them.

One is small and really fills up, the other one does not tell upper and lower case apart. The test
is skipped where it may not mount them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Where programs for root are, which are not on everybody's PATH.
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

#: What the smallest file takes of a `SmallDisk`, in bytes.
BLOCK = 4096


class SmallDisk:
    """A file system that is full soon, and what fills it.

    Attributes
    ----------
    path : `pathlib.Path`
        Where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = path / "filler"
        self._names = path / "fillers"

    def fill(self, blocks: int = 0) -> None:
        """Let a file of somebody else's take all the room but so many blocks."""
        with self._bytes.open("ab", buffering=0) as filler:
            for size in (1 << 20, BLOCK):
                try:
                    while filler.write(b"\0" * size) == size:
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017
        os.truncate(self._bytes, self._bytes.stat().st_size - blocks * BLOCK)

    def fill_names(self, names: int = 0) -> None:
        """Let somebody else's files take all the names but so many, so that none can be made.

        Many file systems have a table of files that fills up; on others a new name may need a
        block.
        """
        self._names.mkdir()
        free = os.statvfs(self.path).f_ffree
        for number in range(free - names):
            (self._names / str(number)).touch()

    def make_room(self) -> None:
        """Remove what filled it."""
        self._bytes.unlink(missing_ok=True)
        shutil.rmtree(self._names, ignore_errors=True)


@contextmanager
def small_disk(directory: Path, size: int, names: int = 2000) -> Iterator[SmallDisk]:
    """Mount a file system of so many bytes, and for so many files, at a directory that is made."""
    directory.mkdir()
    options = f"size={size},nr_inodes={names}"
    with _mounted(["mount", "-t", "tmpfs", "-o", options, "none", directory], directory):
        yield SmallDisk(directory)


@contextmanager
def folding_disk(directory: Path) -> Iterator[Path]:
    """Mount a file system at a directory that is made, to which `A` and `a` are one name.

    It lists every name in lower case, however it was written.
    """
    make, mount = (shutil.which(tool, path=_PATH) for tool in ("mkntfs", "lowntfs-3g"))
    if not make or not mount:
        pytest.skip("no lowntfs-3g here (package ntfs-3g)")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse here")
    image = directory.with_name(f"{directory.name}.image")
    with image.open("wb") as file:
        file.truncate(48 << 20)  # more than a quarantine must leave free
    subprocess.run([make, "-q", "-F", image], check=True, capture_output=True)
    directory.mkdir()
    with _mounted([mount, "-o", "ignore_case", image, directory], directory):
        yield directory
    image.unlink()


@contextmanager
def _mounted(command: Sequence[str | Path], directory: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        # A process that a failed test left may still be there: then at its end.
        if subprocess.run(["umount", directory], capture_output=True, check=False).returncode:
            subprocess.run(["umount", "--lazy", directory], check=True)


class Area:
    """A directory of a site that goes away in the middle of a pass, and comes back.

    Attributes
    ----------
    path : `pathlib.Path`
        The directory, as it is configured.
    """

    def __init__(self, path: Path, disk: Path | None) -> None:
        self.path = path
        self._disk = disk
        self._beside = path.with_name(f"{path.name}.away")

    def goes_away(self) -> None:
        """Leave an empty directory where it was: its bare mount point, or a new one."""
        if self._disk:
            subprocess.run(["umount", "--lazy", self.path], check=True)
        else:
            self.path.rename(self._beside)
            self.path.mkdir()

    def comes_back(self) -> Path:
        """Put it where it was; give the directory that was there meanwhile."""
        bare = self.path.with_name(f"{self.path.name}.bare")
        self.path.rename(bare)
        if self._disk:
            self.path.mkdir()
            subprocess.run(["mount", "--bind", self._disk, self.path], check=True)
        else:
            self._beside.rename(self.path)
        return bare


@contextmanager
def area(path: Path, mounted: bool) -> Iterator[Area]:
    """Let a directory be one that goes away: with `mounted` on a disk of its own, also later."""
    if not mounted:
        yield Area(path, None)
        return
    disk = path.with_name(f"{path.name}.disk")
    with small_disk(disk, 32 << 20):
        shutil.copytree(path, disk, dirs_exist_ok=True)
        with _mounted(["mount", "--bind", disk, path], path):
            yield Area(path, disk)


def exchange(one: Path, other: Path) -> None:
    """Exchange two names in one step, as an attacker does."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2) == 0


@contextmanager
def behind_a_link(directory: Path) -> Iterator[None]:
    """Let an empty directory have a directory's name by a link, as long as the block runs."""
    away, other = (directory.with_name(f".{directory.name}.{what}") for what in ("away", "other"))
    other.mkdir()
    directory.rename(away)
    directory.symlink_to(other)
    try:
        yield
    finally:
        directory.unlink()
        away.rename(directory)
        other.rmdir()


def path_of(name: str | bytes | os.PathLike[str], keywords: Mapping[str, object]) -> str:
    """Return the path that a system call means, given its name and its keyword arguments."""
    directory = keywords.get("dir_fd", keywords.get("src_dir_fd"))
    if directory is None or directory == -100:
        return os.fsdecode(name)
    return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), os.fsdecode(name))
