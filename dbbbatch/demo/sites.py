"""Two sites side by side in a directory, and a night of FITS files going from one to the other."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dbbbatch import toml
from dbbbatch.demo import fits
from dbbbatch.errors import UsageError

#: Exposures of a night; the last of them breaks off.
EXPOSURES = 4

#: Proves that a directory was made by us and may be used again.
_MARK = "This directory was made by `dbb demo`. Remove it as you like.\n"

#: A target that is only a command: refuses what is no whole FITS file, and lists the others.
_REGISTER = """\
#!/bin/sh
# Called by dbb-ingester with the path of a stored file.
[ "$(head -c 6 -- "$1")" = SIMPLE ] && [ $(($(wc -c <"$1") % 2880)) = 0 ] || {
    echo "not a whole FITS file" >&2
    exit 1
}
printf '%s\\n' "$1" >>"${0%/*}/catalog.txt"
"""


@dataclass(frozen=True)
class Step:
    """One script as cron runs it, and how it ended."""

    command: str
    code: int | None
    output: str


class Demo:
    """The two sites.

    Parameters
    ----------
    root : `pathlib.Path`
        Where they are built; used again if it is ours already.

    Raises
    ------
    UsageError
        If the directory holds something that is not ours.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.summit = self.root / "summit.toml"
        self.archive = self.root / "archive.toml"
        mark = self.root / "README"
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{root}: is no directory")
        if self.root.is_dir() and any(self.root.iterdir()) and not mark.exists():
            raise UsageError(f"{root}: holds something that is no demo; name another directory")
        self.root.mkdir(parents=True, exist_ok=True)
        mark.write_text(_MARK, encoding="utf-8")

    def build(self) -> None:
        """Make directories and configurations; again, if they are there."""
        summit, archive = self.root / "summit", self.root / "archive"
        for site, names in (
            (summit, ("buffer", "holding", "quarantine", "state")),
            (archive, ("buffer", "staging", "storage", "quarantine", "state", "by-night")),
        ):
            for name in names:
                (site / name).mkdir(parents=True, exist_ok=True)
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
                "handoff.latiss.endpoint": {
                    **{name: archive / name for name in ("buffer", "staging")},
                    "transfer": "cp -p -- {batch} {dest}",
                },
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
            },
        )

    def observe(self) -> list[str]:
        """Write two nights of exposures into the buffer, and give their relative paths.

        The last one of each night is cut short, as by an instrument that lost its power.
        """
        tonight = datetime.now(UTC).date()
        written = []
        for date in (tonight - timedelta(days=1), tonight):
            night = self.root / "summit" / "buffer" / date.isoformat()
            night.mkdir(exist_ok=True)
            first = self._exposures_of(f"{date:%Y%m%d}")
            for number in range(first + 1, first + EXPOSURES + 1):
                name = f"AT_O_{date:%Y%m%d}_{number:06}.fits"
                content = _exposure(date.isoformat(), number)
                if number == first + EXPOSURES:
                    content = content[: len(content) // 2 + 1000]
                # As an archiver does: written under a name that is passed over, then renamed.
                temporary = self.root / "summit" / name
                temporary.write_bytes(content)
                temporary.replace(night / name)
                written.append(f"{date.isoformat()}/{name}")
        return written

    def run(self) -> Iterator[Step]:
        """Run the scripts, each as cron runs it: few variables, no terminal."""
        yield self._step("dbb", "-c", self.summit.name, "init")
        yield self._step("dbb", "-c", self.archive.name, "init")
        yield self._step("dbb-handoff", "-c", self.summit.name)
        yield self._step("dbb-finder", "-c", self.archive.name)
        yield self._step("dbb-ingester", "-c", self.archive.name, "--all")

    def _exposures_of(self, day: str) -> int:
        """Count a night's exposures so far, wherever they have got to."""
        places = ("summit/buffer", "summit/holding", "archive/storage")
        names = {
            path.name for place in places for path in (self.root / place).rglob(f"AT_O_{day}_*")
        }
        return len(names)

    def _step(self, script: str, *arguments: str) -> Step:
        from dbbbatch.remote import execute

        beside = os.path.dirname(os.path.realpath(sys.argv[0]))
        argv = [sys.executable, os.path.join(beside, script), *arguments]
        environment = {"HOME": "/", "LOGNAME": "dbb", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
        ended = execute.run(
            [os.fsencode(word) for word in argv],
            timeout=60,
            cwd=str(self.root),
            env=environment,
        )
        output = (ended.stdout + ended.stderr).decode("utf-8", "backslashreplace")
        return Step(" ".join([script, *arguments]), ended.exit_code, output)

    def _write(self, path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        path.write_text(toml.document(tables), encoding="utf-8")


def _exposure(date: str, number: int) -> bytes:
    header: dict[str, tuple[str | int | float | bool, str]] = {
        "DATE-OBS": (f"{date}T{number % 24:02}:00:00.000", "start of the exposure, UTC"),
        "INSTRUME": ("LATISS", "a camera of the demo, not the real one"),
        "OBJECT": (f"FIELD-{number:03}", "what was looked at"),
        "EXPTIME": (30.0, "seconds"),
        "SEQNUM": (number, "exposure of this night"),
    }
    return fits.image(header, 96, 96, seed=number)
