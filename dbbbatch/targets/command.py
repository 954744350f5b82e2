"""The plugin that runs a command for each file; its exit code says what became of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.targets.plugin import Context, Misconfigured, Outcome, Plugin, Result, StoredFile

#: What may stand in braces in the command.
PLACEHOLDERS = ("file", "relpath", "filename", "storage", "target", "size_bytes", "checksum")

#: Seconds before the time limit of the worker at which the command is ended, so that the plugin
#: lives on and can say so.
_MARGIN = 5.0


def _command(value: Any) -> str:
    from dbbbatch.process import template

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
        meaning: dict[int, str] = {}
        for name in ("done", "already", "later", "never"):
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

    def __init__(self, settings: CommandSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._results = {
            code: result
            for codes, result in (
                (settings.never, Result.NEVER),
                (settings.later, Result.LATER),
                (settings.already, Result.ALREADY),
                (settings.done, Result.DONE),
            )
            for code in codes
        }

    def start(self) -> None:
        from dbbbatch.process import template

        self._template = template.parse_command(self.settings.command)
        limit = self.context.timeout
        self._limit = max(limit - _MARGIN, 0.8 * limit)
        program = os.fsdecode(
            self._template.argv(_placeholder_values(_EXAMPLE_FILE, self.context))[0]
        )
        if "{" not in program and shutil.which(program) is None:
            raise Misconfigured(
                f"command: {program}: no such program for this user (PATH of cron is short: write "
                "the whole path)"
            )

    def version(self) -> str:
        return self.settings.version

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        from dbbbatch.process import run

        for file in files:
            argv = self._template.argv(_placeholder_values(file, self.context))
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
                message = finished.said()
            yield Outcome(file.number, result, message)


_EXAMPLE_FILE = StoredFile(0, "/storage/file", "", "file", 1)


def _placeholder_values(file: StoredFile, context: Context) -> dict[str, bytes]:
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
