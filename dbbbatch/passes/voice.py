"""What a pass says to the operator: each trouble once when it begins and once when it ends.

Cron mails whatever is written, so a trouble that lasts all night must not be said every minute.
What was said is remembered in the state directory; on a terminal or with -v it is always said.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Trouble(NamedTuple):
    """What is said of a trouble, and how great it is."""

    message: str
    level: int


class Voice:
    """The voice of one script and section.

    Parameters
    ----------
    state : `pathlib.Path`
        The site's state directory.
    label : `str`
        Who speaks, such as ``handoff.latiss``.
    always : `bool`
        Say everything every time.
    """

    def __init__(self, state: Path, label: str, always: bool = False) -> None:
        self.label = label
        self._path = state / "said" / f"{label}.json"
        self._always = always or sys.stderr.isatty()
        self._troubles: dict[str, Trouble] = {}
        self._kept = False
        self._broken_off = False

    def trouble(self, message: str, key: str | None = None, level: int = 0) -> None:
        """Note a trouble of this pass.

        Parameters
        ----------
        message : `str`
            One line for the operator.
        key : `str`, optional
            What makes it the same trouble next time although its words (numbers, names) differ.
        level : `int`
            How great it is: one that has grown since it was said is said again.
        """
        self._troubles.setdefault(key or message, Trouble(message, level))

    @property
    def troubles(self) -> list[str]:
        """The messages noted in this pass."""
        return [trouble.message for trouble in self._troubles.values()]

    def end_pass(self) -> None:
        """Say what has begun and what has ended since the pass before this one, and remember it."""
        if self._kept:
            self._kept = False
            return
        before = self._remembered()
        for key, (message, level) in self._troubles.items():
            if self._always or key not in before or level > before[key].level:
                self._say(message)
        if self._broken_off:
            self._troubles = {**before, **self._troubles}
        for key, (message, _) in before.items():
            if key not in self._troubles:
                self._say(f"is over: {message}")
        if before != self._troubles:
            self._remember(self._troubles)
        self._troubles = {}
        self._broken_off = False

    def keep(self) -> None:
        """Let what was said stand: this pass did not look whether a trouble is over."""
        self._kept = True

    def break_off(self) -> None:
        """Say of no earlier trouble that it is over: this pass ended before it had seen all."""
        self._broken_off = True

    def aside(self, message: str) -> None:
        """Say something that is no trouble: only on a terminal or with -v."""
        if self._always:
            self._say(message)

    def _say(self, message: str) -> None:
        for line in message.splitlines():
            print(f"{self.label}: {line}", file=sys.stderr, flush=True)

    def _remembered(self) -> Mapping[str, Trouble]:
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                key: Trouble(str(message), int(level)) for key, (message, level) in said.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):
            # Never said, or cut short by a full disk: then it is said once more.
            return {}

    def _remember(self, troubles: Mapping[str, Trouble]) -> None:
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            if not troubles:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(troubles), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError as error:
            with suppress(OSError):  # of a directory that this user may not even enter
                temporary.unlink(missing_ok=True)
            self._say(f"{self._path}: cannot remember what was said: {error.strerror}")
