"""The plugin that runs a command for each file; its exit code says what became of the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.process import run, template
from dbbbatch.targets.plugin import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)

#: The names in braces that the command may use.
PLACEHOLDERS = ("file", "relpath", "filename", "storage", "target", "size_bytes", "checksum")

#: The keys that give an exit code its meaning.
_MEANINGS = {
    "done": Result.DONE,
    "already": Result.ALREADY,
    "later": Result.LATER,
    "never": Result.NEVER,
}

#: Seconds before the time limit of the worker at which the command is ended, so that the plugin
#: lives and can report it.
_MARGIN = 5.0


def _command(value: Any) -> str:
    text = fields.command(value)
    used = template.parse_command(text).placeholders
    if unknown := sorted(used - set(PLACEHOLDERS)):
        raise ValueError(
            f"{{{unknown[0]}}} has no value{fields.nearest(unknown[0], [*PLACEHOLDERS])}"
        )
    if not used & {"file", "filename"}:
        raise ValueError("{file} is missing: the path of the file")
    return text


@dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """The keys of ``[target.NAME.config]``."""

    command: str = option(
        help="run for each file, without a shell; {file} is its path (see the docs for others)",
        parse=_command,
        example="/opt/catalog/bin/register {file}",
    )
    done: tuple[int, ...] = option([0], "exit codes that mean: ingested now", fields.numbers)
    already: tuple[int, ...] = option([], "exit codes that mean: was there already", fields.numbers)
    later: tuple[int, ...] = option(
        [75], "exit codes that mean: not now, and not the file's fault", fields.numbers
    )
    never: tuple[int, ...] = option(
        [], "exit codes that mean: can never be ingested", fields.numbers
    )
    version: str = option("", "version of what the command ingests into, for the history")

    def __post_init__(self) -> None:
        """Raise unless each exit code has one meaning."""
        meaning: dict[int, str] = {}
        for name in _MEANINGS:
            for code in getattr(self, name):
                if (other := meaning.setdefault(code, name)) != name:
                    raise ValueError(
                        f"{name}: {code} stands in `{other}` = {list(getattr(self, other))}, too; "
                        "an exit code has one meaning"
                    )


class CommandPlugin(Plugin):
    """Runs a command for each file. Any exit code that is not configured costs an attempt."""

    name = "command"
    Settings = CommandSettings
    one_at_a_time = True

    settings: CommandSettings

    def start(self) -> None:
        """Take the command apart, and look for its program."""
        self._command = template.parse_command(self.settings.command)
        self._results = {
            code: result
            for name, result in _MEANINGS.items()
            for code in getattr(self.settings, name)
        }
        limit = self.context.timeout
        self._limit = max(limit - _MARGIN, 0.8 * limit)
        example = StoredFile(0, "/storage/file", "", "file", 1)
        program = os.fsdecode(self._command.argv(_values(example, self.context))[0])
        if "{" not in program and shutil.which(program) is None:
            raise Misconfigured(
                f"command: {program}: no such program for this user (PATH of cron is short: write "
                "the whole path)"
            )

    def version(self) -> str:
        """Return the configured version."""
        return self.settings.version

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Run the command for one file after the other."""
        for file in files:
            argv = self._command.argv(_values(file, self.context))
            try:
                finished = run.run(argv, timeout=self._limit, keep=4096)
            except run.ToolMissing as error:
                raise Misconfigured(f"command: {error}") from None
            result = Result.FAILED
            if not finished.timed_out and finished.exit_code is not None:
                result = self._results.get(finished.exit_code, Result.FAILED)
            if result in (Result.DONE, Result.ALREADY):
                message = run.last_lines(finished.stdout)
            else:
                message = finished.summary()
            yield Outcome(file.number, result, message)
            if finished.survivor is not None:
                raise NotReady(f"command: {message}")


def _values(file: StoredFile, context: Context) -> dict[str, bytes]:
    algorithm, digits = next(iter(file.checksums.items()), ("", ""))
    values = {
        "file": file.path,
        "relpath": file.relpath,
        "filename": file.filename,
        "storage": context.storage,
        "target": context.target,
        "size_bytes": str(file.size_bytes),
        "checksum": f"{algorithm}:{digits}",
    }
    return {name: os.fsencode(value) for name, value in values.items()}
