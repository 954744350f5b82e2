"""What passes that record files where they lie have in common: saying what they could not see."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence

from dbbbatch.errors import Interrupted, TryLater
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.scan import Found, scan
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.runner import Work

#: Troubles that are told one by one; the others are only counted.
_MOST_SAID = 20


class Recording(Work):
    """A pass that records files which are where they belong already.

    Attributes
    ----------
    counts : `collections.Counter`
        How many files were ``recorded``, ``known``, ``failed`` (of which ``unreadable``), or
        ``not settled``.
    troubles : `list` [ `str` ]
        Paths that could not be read or recorded, and why; the first of them.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.troubles: list[str] = []

    def files(
        self, p: PassContext, root: str, exclude: Sequence[re.Pattern[str]] = ()
    ) -> Iterator[Found]:
        """Yield the regular files below a directory, and note where further ones may be."""

        def odd(rel: str, what: str) -> None:
            path = os.path.join(root, rel)
            if not _may_lead_to_files(path):
                p.log.info("%s: %s", names.printable(path), what)
            elif not any(pattern.search(rel + "/") for pattern in exclude):
                self._note_unseen(p, path, what)

        try:
            yield from scan(root, exclude, odd=odd)
        except OSError as error:
            if faults.affects_every_file(error) or isinstance(error, FileNotFoundError):
                raise TryLater(f"{root}: {error.strerror}; is it mounted?") from None
            self._note_unseen(p, root, f"directory cannot be read: {error.strerror}")

    def note(self, p: PassContext, path: str, error: OSError | Interrupted) -> None:
        """Note a file that could not be read.

        Raises
        ------
        TryLater
            The disk is at fault, not this file.
        """
        if isinstance(error, Interrupted):
            return
        faults.raise_if_general(error, path)
        # Gone or being written: it failed for now.
        passing = isinstance(error, FileNotFoundError | checksum.Changed)
        p.counts["unreadable"] += not passing
        self._say(p, path, str(error.strerror))

    def _note_unseen(self, p: PassContext, path: str, what: str) -> None:
        p.counts["unreadable"] += 1
        self._say(p, path, f"{what}; nothing of it is recorded")

    def _say(self, p: PassContext, path: str, what: str) -> None:
        # `failed` is what makes the exit code 1.
        p.counts["failed"] += 1
        message = f"{names.printable(path)}: {what}"
        p.log.warning("%s", message)
        if len(self.troubles) < _MOST_SAID:
            self.troubles.append(message)


def _may_lead_to_files(path: str) -> bool:
    """Return whether what a scan passed over may be a file, or have some behind it.

    That is a file with a name of ours, a link to a directory, and what cannot be looked at; not a
    FIFO, nor a link to a file.
    """
    try:
        return stat.S_ISREG(os.lstat(path).st_mode) or stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True
