"""What a pass reports to the operator: each trouble once when it begins and once when it ends.

Cron mails whatever is written, so a trouble that lasts all night must not be said every minute.
What was said is remembered in the state directory; on a terminal or with -v it is always said.

That must work where the disk of the state directory is full, too: so the file of what was said is
never removed and never smaller than a block, which can be written in place.
"""

import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from dbbbatch.errors import DbbError
from dbbbatch.files import state
from dbbbatch.files.lock import Lock
from dbbbatch.files.names import harmless

#: Characters of a message that are remembered where there is little room.
_SHORT = 200

#: Seconds to wait while another pass of the same component says what it has to say.
_TURN = 5.0

#: Files that are named in a pass for each kind of trouble; of others only that there are more.
MOST_NAMED = 10


class Notice(NamedTuple):
    """What is said of a trouble, how great it is, and since when it lasts (UTC, seconds)."""

    message: str
    level: int
    since: float = 0


@dataclass(kw_only=True)
class Symptom:
    """What one pass met of an outage.

    Attributes
    ----------
    message : `str`
        One line for an operator.
    level : `int`
        How great it is.
    files : `list` [`str`]
        The first few files that it is about.
    more : `int`
        How many others.
    """

    message: str
    level: int = 0
    files: list[str] = field(default_factory=list)
    more: int = 0

    def add(self, file: str) -> None:
        """Note a file that it is about, by its name, or '' if it is only to be counted."""
        if file and len(self.files) < MOST_NAMED:
            self.files.append(file)
        else:
            self.more += 1


def has_grown(level: int, told: int) -> bool:
    """Return whether a trouble is so much greater than when it was told that it is told again.

    It has doubled: a count that grows by one each minute is no new trouble each minute.
    """
    return level >= max(1, 2 * told)


class Notices:
    """The notices of one script and section.

    Parameters
    ----------
    directory : `pathlib.Path`
        The site's state directory.
    label : `str`
        Who speaks, such as ``handoff.latiss``.
    always : `bool`
        Say everything every time.
    """

    def __init__(self, directory: Path, label: str, always: bool = False) -> None:
        self.label = label
        self._path = directory / "said" / f"{label}.json"
        self._always = always or sys.stderr.isatty()
        self._troubles: dict[str, Notice] = {}
        #: What this pass met, by what makes it one outage for the whole site.
        self.met: dict[str, Symptom] = {}
        self._named: Counter[str] = Counter()
        self._kept = False
        self._broken_off = False

    def warn(
        self,
        message: str,
        key: str | None = None,
        level: int = 0,
        of: str = "",
        shared: bool = False,
    ) -> None:
        """Note a trouble of this pass.

        Parameters
        ----------
        message : `str`
            One line for the operator.
        key : `str`, optional
            What makes it the same trouble next time although its words (numbers, names) differ.
        level : `int`
            How great it is: one that has doubled since it was said is said again.
        of : `str`
            Which file or row it is about: each has a notice of its own.
        shared : `bool`
            Other components that have a trouble of this key have the same one.
        """
        full = " ".join(filter(None, (key, of))) or message
        new = full not in self._troubles
        self._troubles.setdefault(full, Notice(message, level))
        outage = (key or re.sub(r"\d+", "#", message)).rstrip(":")
        if not shared:
            outage = f"{self.label}: {outage}"
        met = self.met.setdefault(outage, Symptom(message=message, level=level))
        if of and new:
            met.add(of)
        elif not of and met.files:
            self.met[outage] = replace(met, message=message, level=level)

    def warn_of(self, kind: str, path: str, message: str) -> bool:
        """Note a trouble with one file; return whether the file is named, and was not before.

        Parameters
        ----------
        kind : `str`
            What the trouble is; of each kind at most `MOST_NAMED` files are named.
        path : `str`
            Which file: with the kind, what makes it the same trouble next time.
        message : `str`
            One line for the operator.
        """
        if f"{kind}: {path}" in self._troubles:
            return False
        if self._named[kind] == MOST_NAMED:
            more = f"and more of this ({kind}); `dbb status` counts them"
            self._troubles.setdefault(f"{kind}…", Notice(more, 0))
            self.met[f"{self.label}: {kind}"].add("")
            return False
        self._named[kind] += 1
        self.warn(message, f"{kind}:", of=path)
        return True

    @property
    def whole(self) -> bool:
        """Whether this pass has seen everything, so that what it did not meet is over."""
        return not (self._kept or self._broken_off)

    @property
    def troubles(self) -> list[str]:
        """The messages noted in this pass."""
        return [trouble.message for trouble in self._troubles.values()]

    def end_pass(self) -> None:
        """Show what has begun and ended since the pass before this one, and remember it.

        The lock of a pass is free by now, and some scripts make several passes at a time: what one
        remembers the next one must know before it says anything.
        """
        self.met = {}
        if self._kept:
            self._kept = False
            return
        if not self._troubles and _read_said(self._path) == {}:
            self._broken_off = False
            return
        turn = Lock(self._path.parent, self.label)
        with suppress(DbbError, OSError):  # where nothing can be written it is said all the same
            turn.acquire(_TURN)
        try:
            self._say_what_changed()
        finally:
            turn.release()

    def _say_what_changed(self) -> None:
        remembered = _read_said(self._path)
        before = remembered or {}
        # The same words are one trouble, whatever its key.
        known = {trouble.message: trouble for trouble in before.values()}
        said = set()
        for key, (message, level, _) in list(self._troubles.items()):
            earlier = before.get(key) or known.get(message)
            tell = self._always or not earlier or has_grown(level, earlier.level)
            if tell and message not in said:
                said.add(message)
                self._say(message)
            if earlier and not tell:
                # It is over in the words in which it was told, and as great as it was then.
                level = earlier.level
                was_cut = len(earlier.message) == _SHORT and message.startswith(earlier.message)
                message = message if was_cut else earlier.message
            since = earlier.since if earlier else time.time()
            self._troubles[key] = Notice(message, level, since)
        if self._broken_off:
            self._troubles = {**before, **self._troubles}
        lasting = {trouble.message for trouble in self._troubles.values()}
        for key, (message, *_) in before.items():
            if key not in self._troubles and message not in lasting:
                self._say(f"is over: {message}")
        if remembered is None or before != self._troubles:
            self._remember(self._troubles, before)
        self._troubles = {}
        self._named.clear()
        self._broken_off = False

    def show(self) -> None:
        """Show what was noted, and remember nothing of it."""
        for message in dict.fromkeys(self.troubles):
            self._say(message)

    def unchanged(self) -> None:
        """Leave everything as it was reported: this pass did not look whether a trouble is over."""
        self._kept = True

    def incomplete(self) -> None:
        """Report no earlier trouble as over: this pass ended before it had seen everything."""
        self._broken_off = True

    def undecided(self, key: str) -> None:
        """Take an earlier trouble of this key to last: this pass did not look for it."""
        if (notice := (_read_said(self._path) or {}).get(key)) is not None:
            self.warn(notice.message, key, notice.level)

    def info(self, message: str) -> None:
        """Show something that is no trouble: only on a terminal, or with -v."""
        if self._always:
            self._say(message)

    def _say(self, message: str) -> None:
        print(harmless(f"{self.label}: {message}"), file=sys.stderr, flush=True)

    def _remember(self, troubles: Mapping[str, Notice], before: Mapping[str, Notice]) -> None:
        why = state.write_json(self._path, troubles)
        kept = {
            key: trouble._replace(message=trouble.message[:_SHORT])
            for key, trouble in troubles.items()
        }
        while why and kept and state.write_json(self._path, kept):
            kept.popitem()
        if why and (not kept or len(kept) < len(troubles)) and (troubles or before):
            self._say(f"{self._path}: cannot remember what was said: {why}")


def outstanding_notices(directory: Path) -> dict[str, Mapping[str, Notice]]:
    """Return what was said and is not over, by label and then by key.

    Parameters
    ----------
    directory : `pathlib.Path`
        The site's state directory.
    """
    paths = sorted((directory / "said").glob("*.json"))
    return {path.stem: _read_said(path) or {} for path in paths}


def _read_said(path: Path) -> Mapping[str, Notice] | None:
    """Return what was said; `None` if there is no file of it, or not a whole one."""
    said = state.read_json(path)
    try:
        return (
            None
            if said is None
            else {
                key: Notice(str(message), int(level), state.read_time(since[0]) if since else 0)
                for key, (message, level, *since) in (
                    # Version 0.1.0 wrote the message alone.
                    (key, (value, 0) if isinstance(value, str) else value)
                    for key, value in said.items()
                )
            }
        )
    except (ValueError, TypeError, ArithmeticError):
        return None  # it is said once more
