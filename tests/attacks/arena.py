"""A site whose directories somebody exchanges for links to what is none of ours."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbbbatch.database import connect
from tests.attacks.attacker import attacking
from tests.support.site import SENTINEL, Site

#: Directories that are exchanged, and directories in them that have files.
_EXCHANGED = [*(f"night-{number}" for number in range(6)), *(f"camera-{n}" for n in range(3))]
_WITH_FILES = [name if name.startswith("night") else f"{name}/raw" for name in _EXCHANGED]
#: A directory of which the files are exchanged.
_QUIET = "quiet"
#: What is in files outside.
PRIVATE = b"PRIVATE"
#: Files in each directory.
_COUNT = 8

#: Whom a file of the attacker's own belongs to, where the site is root's.
_NOBODY = 65534

#: What a command may answer: all well, some files failed or are refused, or try again later.
_CODES = (0, 1, 64, 75)


class Arena:
    """A site, the files that it moves, and those outside that its passes could reach by a link.

    Parameters
    ----------
    site : `Site`

    Attributes
    ----------
    files : `dict` [ `str`, `bytes` ]
        By relative path.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.files = {
            f"{directory}/{number}.fits": _content(f"{directory}/{number}.fits", b"ours")
            for directory in (*_WITH_FILES, _QUIET)
            for number in range(_COUNT)
        }
        #: Files of the attacker's own: they may become ours, too.
        self.theirs: list[bytes] = []
        self._outside: list[Path] = []
        self._pairs: list[tuple[Path, Path]] = []

    def threaten(self, *roots: Path, links: bool = False, files: bool = False) -> None:
        """Let directories of these roots be exchanged for links; behind one are the same names.

        With `links`, some of their files are exchanged for links to such files, and with `files`
        for files of the attacker's own, too.
        """
        for root in roots:
            outside, others = (
                root.with_name(f"{root.name}.{what}") for what in ("outside", "attacker")
            )
            for rel in self.files:
                for top in (root, outside):
                    (top / rel).parent.mkdir(parents=True, exist_ok=True)
                (outside / rel).write_bytes(_content(rel, PRIVATE))
            others.mkdir()
            for name in _EXCHANGED:
                (others / name).symlink_to(outside / name)
                self._pairs.append((root / name, others / name))
            if links or files:
                (others / _QUIET).mkdir()
                for number in range(_COUNT):
                    rel = f"{_QUIET}/{number}.fits"
                    if number % 2 or not files:
                        (others / rel).symlink_to(outside / rel)
                    else:
                        self.theirs.append(_content(rel, b"theirs"))
                        (others / rel).write_bytes(self.theirs[-1])
                        if os.geteuid() == 0:
                            os.chown(others / rel, _NOBODY, _NOBODY)
                    self._pairs.append((root / rel, others / rel))
            outside.chmod(0o700)
            self._outside.append(outside)

    def put(self, root: Path) -> None:
        """Put the files below a root."""
        for rel, content in self.files.items():
            self.site.put(rel, content, root)

    def run(self, script: str, *arguments: str) -> None:
        """Run a script, which may not end by a fault of its own."""
        ran = self.site.run(script, *arguments)
        assert ran.code in _CODES, ran

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Attack as long as the block runs; then nothing outside may have changed."""
        before = _picture(self._outside)
        with attacking(self._pairs):
            yield
        after = _picture(self._outside)
        changed = {path for path, _ in before.items() ^ after.items()}
        assert not changed, {path: (before.get(path), after.get(path)) for path in changed}

    def check(
        self,
        *roots: Path,
        twice: Sequence[str] = (),
        gone: Sequence[str] = (),
        copied: bool = False,
    ) -> None:
        """Check that roots together have each file once, and nothing that the site may not have.

        Parameters
        ----------
        *roots : `pathlib.Path`
        twice : `~collections.abc.Sequence` [ `str` ]
            Files that may be there twice.
        gone : `~collections.abc.Sequence` [ `str` ]
            Files that may be nowhere.
        copied : `bool`
            Files were copied: one that was exchanged before its original was removed is there
            twice.
        """
        others = [path for root in roots for path in root.parent.glob(f"{root.name}.attacker")]
        found = Counter(each for root in (*roots, *others) for each in _contents(root))
        for rel, content in self.files.items():
            exchanged = copied and rel.startswith(_QUIET)
            least, most = int(rel not in gone), 1 + (rel in twice or exchanged)
            assert least <= found[content] <= most, (rel, found[content])
        for content in self.theirs:
            assert 1 <= found[content] <= 1 + copied, (content[:40], found[content])
        self._check_nothing_private()
        self._check_rows()

    def check_delivered(self) -> None:
        """Check that the endpoint has each file that is held or purged."""
        there = set(_contents(self.site.far_buffer))
        held = self.rows("SELECT checksum FROM handoff_file WHERE status IN ('HELD', 'DELIVERED')")
        digests = {f"blake2b:{hashlib.blake2b(content).hexdigest()}" for content in there}
        assert {row[0] for row in held} <= digests

    def _check_nothing_private(self) -> None:
        """Check that nothing from outside is, or is told of, in the site."""
        private = {_content(rel, PRIVATE) for rel in self.files}
        for root in _roots(self.site):
            assert not private.intersection(_contents(root)), root
        digests = {f"blake2b:{hashlib.blake2b(content).hexdigest()}" for content in private}
        for table in ("file", "handoff_file", "quarantine"):
            told = {row[0] for row in self.rows(f"SELECT checksum FROM {table}")}
            assert not digests & told, table

    def _check_rows(self) -> None:
        """Check that what is stored, and what is held, is what the tables say."""
        stored = "SELECT storage, relpath, filename, checksum FROM file WHERE status = 'STORED'"
        held = (
            "SELECT ?, relpath, held_as, checksum FROM handoff_file"
            " WHERE status = 'HELD' AND held_as IS NOT NULL"
        )
        for root, relpath, name, told in [
            *self.rows(stored),
            *self.rows(held, str(self.site.holding)),
        ]:
            content = Path(root, relpath, name).read_bytes()
            assert told == f"blake2b:{hashlib.blake2b(content).hexdigest()}", name

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """Ask the database."""
        connect.connect(self.site.settings().database)
        try:
            return list(connect.execute(sql, values).fetchall())
        finally:
            connect.disconnect()


def _content(rel: str, whose: bytes) -> bytes:
    """Return a content of its own for a file; all have one size."""
    line = rel.encode().ljust(24) + whose.ljust(8)
    return line * 300


def _roots(site: Site) -> list[Path]:
    return [
        *(site.buffer, site.holding, site.quarantine, site.staging),
        *(site.far_buffer, site.storage, site.storage_quarantine, site.root / "tree"),
    ]


def _contents(root: Path) -> Iterator[bytes]:
    """Yield the content of each file below a root; links are not followed."""
    for top, _, names in os.walk(root):
        for name in names:
            path = Path(top, name)
            if name != SENTINEL and stat.S_ISREG(path.lstat().st_mode):
                yield path.read_bytes()


def _picture(roots: Iterable[Path]) -> dict[str, tuple[Any, ...]]:
    """Return all that can be seen of directories and what is below, but who read it when."""
    found = {}
    for root in roots:
        for path in (root, *root.rglob("*")):
            status = path.lstat()
            content = path.read_bytes()[:40] if stat.S_ISREG(status.st_mode) else b""
            found[str(path)] = (
                *(oct(status.st_mode), status.st_ino, status.st_nlink, status.st_size),
                *(status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ctime_ns, content),
            )
    return found
