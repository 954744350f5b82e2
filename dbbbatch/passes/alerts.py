"""Alert the operators to each outage, once when it begins and once when it is over.

What was told is in ``STATE/alerts.json``, for all components of this host: one outage that several
of them meet is told once. A message is sent first and recorded then, so a kill between the two has
it sent twice rather than never. Nothing here fails a pass, and it waits no longer than it is told.
"""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dbbbatch.config.load import Settings
from dbbbatch.errors import AWAY, DbbError
from dbbbatch.files import state
from dbbbatch.files.lock import Lock
from dbbbatch.passes import outages, watch
from dbbbatch.passes.notices import Notices, Symptom
from dbbbatch.passes.outages import Outage, Turn, What
from dbbbatch.passes.overdue import RECURRING

#: Returns the first few files that a kind of trouble ("failed", "stuck") of the pass's section is
#: about, and how many others there are.
NameFiles = Callable[[str], tuple[list[str], int]]

#: Where nothing can be recorded, messages are sent in the first seconds of each hour only.
_UNRECORDED = 300.0

#: Characters of a message that are kept where there is little room.
_LITTLE = 80


class Alerts:
    """The alerts of one component.

    Parameters
    ----------
    settings : `dbbbatch.config.load.Settings`
        With an `[alert] command`.
    label : `str`
        KIND.NAME.
    """

    def __init__(self, settings: Settings, label: str) -> None:
        self._settings, self._label = settings, label
        directory = Path(settings.site.state)
        self._path = directory / "alerts.json"
        self._lock = Lock(directory, "alerts")

    def after_pass(self, notices: Notices, name_files: NameFiles) -> str:
        """Send a message of what has begun and what is over.

        Parameters
        ----------
        notices : `dbbbatch.passes.notices.Notices`
            What the pass met; before its end.
        name_files : callable

        Returns
        -------
        why : `str`
            Why that could not be told, which is tried again by the next pass; '' if all is told.
        """
        end = time.monotonic() + self._settings.alert.limit
        try:
            self._lock.acquire(self._settings.alert.limit)
        except DbbError:
            return ""  # the next pass tells it
        except OSError:
            pass  # where nothing can be written, nothing is recorded either
        try:
            return self._follow(notices, name_files, end)
        finally:
            self._lock.release()

    def _follow(self, notices: Notices, name_files: NameFiles, end: float) -> str:
        now = time.time()
        known = outages.from_json(state.read_json(self._path))
        met = notices.met if self._label.partition(".")[0] in RECURRING else {}
        after, changes = outages.follow(known, self._label, met, notices.whole, now)
        after, more = outages.follow(after, "", *self._seen_here(met), now)
        changes = self._with_files([*changes, *more], name_files)
        after.update({one.key: one.outage for one in changes if one.key in after})
        why = ""
        if changes:
            if not self._record(known) and now % 3600 > _UNRECORDED:
                return ""
            if why := self._tell(changes, now, end):
                after = outages.untold(known, after, changes)
        if after != known or not self._path.exists():
            self._record(after)
        return why

    def _seen_here(self, met: Mapping[str, Symptom]) -> tuple[Mapping[str, Symptom], bool]:
        """Return what every pass looks at, and whether all of that was seen."""
        if AWAY in met:
            return {}, False  # whether a component is paused, the database knows
        try:
            return watch.look_at_others(self._settings), True
        except DbbError:
            return {}, False

    def _with_files(self, changes: Sequence[Turn], name_files: NameFiles) -> list[Turn]:
        """Name the files of what begins, where the pass itself has only counted them."""
        found = []
        for change in changes:
            kind = change.key.removeprefix(f"{self._label}: ")
            if change.what in (What.BEGINS, What.GROWS) and not change.outage.files:
                with suppress(DbbError):
                    files, more = name_files(kind) if kind in ("failed", "stuck") else ([], 0)
                    change = change._replace(outage=replace(change.outage, files=files, more=more))
            found.append(change)
        return found

    def _record(self, after: Mapping[str, Outage]) -> bool:
        """Record what was told, shortened where there is little room; return whether it is."""
        short = {
            key: replace(one, message=one.message[:_LITTLE], files=()) for key, one in after.items()
        }
        return not all(
            state.write_json(self._path, outages.as_json(kept)) for kept in (after, short)
        )

    def _tell(self, changes: Sequence[Turn], now: float, end: float) -> str:
        """Run the command; return why it failed, or ''."""
        from dbbbatch.process import run, template

        subject = outages.subject_of(self._settings.site.name, changes)
        advice = shlex.join(["dbb", "-c", str(self._settings.path), "status"])
        text = (
            f"{subject}\n\n{outages.text_of(changes, now)}\n\n"
            f"On {socket.gethostname()}, `{advice}` says what waits and what to do about it.\n"
        )
        command = template.parse_command(self._settings.alert.command or "")
        limit = max(0.1, end - time.monotonic())
        try:
            argv = command.argv({"subject": os.fsencode(subject)})
            done = run.run(argv, timeout=limit, stdin=text.encode("utf-8", "backslashreplace"))
        except DbbError as error:
            return str(error)
        return "" if done.exit_code == 0 and not done.timed_out else done.summary()
