"""Two sites side by side in a directory, and FITS files of two nights for them."""

import os
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dbbbatch.config import toml
from dbbbatch.demo import night
from dbbbatch.errors import UsageError
from dbbbatch.process import run as programs

#: Exposures of a night; the last one is incomplete.
EXPOSURES = 4

#: Proves that a directory was made by a demo and may be used again.
_DEMO_MARK = "This directory was made by `dbb demo`. Remove it as you like.\n"

#: The command of a target: it lists complete FITS files, and refuses others.
_REGISTER = """\
#!/bin/sh
# Called by dbb-ingester with the path of a stored file.
[ "$(head -c 6 -- "$1")" = SIMPLE ] && [ $(($(wc -c <"$1") % 2880)) = 0 ] || {
    echo "not a complete FITS file" >&2
    exit 1
}
printf '%s\\n' "$1" >>"${0%/*}/catalog.txt"
"""


#: What cron runs at the two sites, in this order.
STEPS = (
    ("dbb", "-c", "summit.toml", "init"),
    ("dbb", "-c", "archive.toml", "init"),
    ("dbb-handoff", "-c", "summit.toml"),
    ("dbb-finder", "-c", "archive.toml"),
    ("dbb-ingester", "-c", "archive.toml", "--all"),
)


class Demo:
    """The two sites.

    Parameters
    ----------
    root : `pathlib.Path`
        Where they are built; it may be that of an earlier demo.

    Attributes
    ----------
    scripts : `str`
        The directory of the running script, which also holds the others.
    summit, archive : `pathlib.Path`
        The configuration of each site.

    Raises
    ------
    UsageError
        If the directory cannot be made, or holds something else than a demo.
    """

    def __init__(self, root: Path) -> None:
        # Before anything else: packages of the targets may change sys.argv.
        self.scripts = os.path.dirname(os.path.realpath(sys.argv[0]))
        self.root = root.absolute()
        self.summit = self.root / "summit.toml"
        self.archive = self.root / "archive.toml"
        mark = self.root / "README"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if any(self.root.iterdir()) and not mark.exists():
                raise UsageError(
                    f"{root}: holds something else than a demo; name another directory"
                )
            # Whatever the umask: a configuration that others can write is refused.
            self.root.chmod(self.root.stat().st_mode & ~0o022)
            mark.write_text(_DEMO_MARK, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{root}: {error.strerror}; name another directory") from None

    def make_directories(self) -> None:
        """Make the directories that do not exist yet."""
        for site, names in (
            ("summit", ("buffer", "holding", "quarantine", "state")),
            ("archive", ("buffer", "staging", "storage", "quarantine", "state", "by-night")),
        ):
            for name in names:
                (self.root / site / name).mkdir(parents=True, exist_ok=True)

    def configure(self, more: Mapping[str, Mapping[str, Any]]) -> None:
        """Write the configuration of each site.

        Parameters
        ----------
        more : mapping
            Further sections for the archive.
        """
        summit, archive = self.root / "summit", self.root / "archive"
        register = archive / "register"
        register.write_text(_REGISTER, encoding="utf-8")
        register.chmod(0o755)
        database = {"url": f"sqlite:///{self.root}/dbb.sqlite"}
        self._write(
            self.summit,
            {
                "site": {"name": "summit", "state": summit / "state"},
                "database": database,
                "handoff.latiss": {
                    **{name: summit / name for name in ("buffer", "holding", "quarantine")},
                    "min_free": 0,
                },
                "handoff.latiss.endpoint": {name: archive / name for name in ("buffer", "staging")},
            },
        )
        self._write(
            self.archive,
            {
                "site": {"name": "archive", "state": archive / "state"},
                "database": database,
                "finder.latiss": {
                    "source": archive / "buffer",
                    "storage": archive / "storage",
                    "quarantine": archive / "quarantine",
                    "min_free": 0,
                },
                "target.catalog": {"storage": archive / "storage", "plugin": "command"},
                "target.catalog.config": {"command": f"{register} {{file}}"},
                "target.by-night": {"storage": archive / "storage", "plugin": "link"},
                "target.by-night.config": {"root": archive / "by-night"},
                **more,
            },
        )

    def observe(self) -> list[str]:
        """Write exposures of two nights into the buffer, and return their relative paths.

        The last one of each night is incomplete, as if the instrument had lost its power.
        """
        today = datetime.now(UTC).date()
        written = []
        for evening in (today - timedelta(days=2), today - timedelta(days=1)):
            directory = self.root / "summit" / "buffer" / evening.isoformat()
            directory.mkdir(exist_ok=True)
            before = self._exposures_of(evening)
            for number in range(before + 1, before + EXPOSURES + 1):
                name = night.filename(evening, number)
                content = night.exposure(evening, number)
                if number == before + EXPOSURES:
                    content = content[: len(content) // 2 + 1000]
                # As an archiver does: written elsewhere, then renamed.
                temporary = self.root / "summit" / name
                temporary.write_bytes(content)
                temporary.replace(directory / name)
                written.append(f"{evening.isoformat()}/{name}")
        return written

    def run(self, script: str, *arguments: str) -> programs.Finished:
        """Run a script as cron runs it: few variables, no terminal."""
        argv = [sys.executable, os.path.join(self.scripts, script), *arguments]
        environment = {"HOME": "/", "LOGNAME": "dbb", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
        return programs.run(
            [os.fsencode(word) for word in argv], timeout=60, cwd=str(self.root), env=environment
        )

    def _exposures_of(self, evening: date) -> int:
        """Return how many exposures of a night there are, in any directory."""
        places = ("summit/buffer", "summit/holding", "archive/storage")
        names = {
            path.name
            for place in places
            for path in (self.root / place).rglob(f"AT_O_{evening:%Y%m%d}_*")
        }
        return len(names)

    def _write(self, path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        path.write_text(toml.toml_document(tables), encoding="utf-8")
        path.chmod(0o644)  # whatever the umask: what others could write is refused
