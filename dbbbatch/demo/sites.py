"""Two sites side by side in a directory, and a night of FITS files going from one to the other."""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from dbbbatch.config import toml
from dbbbatch.demo import night
from dbbbatch.errors import UsageError

#: Exposures of a night; the last of them breaks off.
EXPOSURES = 4

#: Proves that a directory was made by us and may be used again.
_DEMO_MARK = "This directory was made by `dbb demo`. Remove it as you like.\n"

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

    Attributes
    ----------
    scripts : `str`
        The directory of the script that runs now, where the others are too.
    summit, archive : `pathlib.Path`
        The configuration of each site.

    Raises
    ------
    UsageError
        If the directory cannot be made, or holds something that is not ours.
    """

    def __init__(self, root: Path) -> None:
        # Asked before anything else: packages of the targets may change sys.argv.
        self.scripts = os.path.dirname(os.path.realpath(sys.argv[0]))
        self.root = root.absolute()
        self.summit = self.root / "summit.toml"
        self.archive = self.root / "archive.toml"
        mark = self.root / "README"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            if any(self.root.iterdir()) and not mark.exists():
                raise UsageError(f"{root}: holds something that is no demo; name another directory")
            # Whatever the umask: a configuration is not obeyed where others can write.
            self.root.chmod(self.root.stat().st_mode & ~0o022)
            mark.write_text(_DEMO_MARK, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{root}: {error.strerror}; name another directory") from None

    def make_directories(self) -> None:
        """Make what is not there yet."""
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
                **more,
            },
        )

    def observe(self) -> list[str]:
        """Write two nights of exposures into the buffer, and give their relative paths.

        The last one of each night is cut short, as by an instrument that lost its power.
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

    def run(self) -> Iterator[Step]:
        """Run the scripts, each as cron runs it: few variables, no terminal."""
        yield self._step("dbb", "-c", self.summit.name, "init")
        yield self._step("dbb", "-c", self.archive.name, "init")
        yield self._step("dbb-handoff", "-c", self.summit.name)
        yield self._step("dbb-finder", "-c", self.archive.name)
        yield self._step("dbb-ingester", "-c", self.archive.name, "--all")

    def _exposures_of(self, evening: date) -> int:
        """Count a night's exposures so far, wherever they have got to."""
        places = ("summit/buffer", "summit/holding", "archive/storage")
        names = {
            path.name
            for place in places
            for path in (self.root / place).rglob(f"AT_O_{evening:%Y%m%d}_*")
        }
        return len(names)

    def _step(self, script: str, *arguments: str) -> Step:
        from dbbbatch.process import run as programs

        argv = [sys.executable, os.path.join(self.scripts, script), *arguments]
        environment = {"HOME": "/", "LOGNAME": "dbb", "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
        ended = programs.run(
            [os.fsencode(word) for word in argv],
            timeout=60,
            cwd=str(self.root),
            env=environment,
        )
        output = (ended.stdout + ended.stderr).decode("utf-8", "backslashreplace")
        return Step(" ".join([script, *arguments]), ended.exit_code, output)

    def _write(self, path: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
        path.write_text(toml.toml_document(tables), encoding="utf-8")
        path.chmod(0o644)  # whatever the umask: what others could write is refused
