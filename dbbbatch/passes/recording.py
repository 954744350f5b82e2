"""What passes that record files where they are have in common: which files they cannot see."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence

from dbbbatch.errors import Interrupted, TryLater, key_of_missing
from dbbbatch.files import checksum, faults, names
from dbbbatch.files.scan import Found, scan
from dbbbatch.files.tree import Entry
from dbbbatch.passes.context import PassContext
from dbbbatch.passes.job import Job, JobWork


class RecordingJob(Job):
    """One pass that records files which are where they belong already.

    It counts how many were ``recorded``, ``known``, ``failed`` (of which ``unreadable``), or
    ``not settled``.
    """

    def files(self, root: str, exclude: Sequence[re.Pattern[str]] = ()) -> Iterator[Found]:
        """Yield the regular files below a directory; warn of places where there may be others."""

        def odd(rel: str, what: str) -> None:
            seen = tree.entry(rel)
            if not _may_lead_to_files(seen):
                self.context.log.info("%s: %s", names.printable(seen.path), what)
            elif not any(pattern.search(rel + "/") for pattern in exclude):
                self._warn_of_unseen(seen.path, what)

        tree = self.context.roots.tree(root)
        try:
            yield from scan(tree, exclude, odd=odd)
        except OSError as error:
            if faults.affects_every_file(error) or isinstance(error, FileNotFoundError):
                why = f"{root}: {error.strerror}; is it mounted?"
                raise TryLater(why, key=key_of_missing(root)) from None
            self._warn_of_unseen(root, f"directory cannot be read: {error.strerror}")

    def note(self, path: str, error: OSError | Interrupted) -> None:
        """Count a file that could not be read, and warn of it.

        Raises
        ------
        TryLater
            The disk is at fault, not this file.
        """
        if isinstance(error, Interrupted):
            return
        faults.raise_if_general(error, path)
        # One that is gone, or being written to, failed for now.
        passing = isinstance(error, FileNotFoundError | checksum.Changed)
        self.context.counts["unreadable"] += not passing
        self.context.counts["failed"] += 1
        self.context.warn_of("unreadable", path, str(error.strerror))

    def _warn_of_unseen(self, path: str, what: str) -> None:
        self.context.counts["unreadable"] += 1
        self.context.counts["failed"] += 1
        self.context.warn_of("unreadable", path, f"{what}; nothing of it is recorded")


class Recording(JobWork):
    """Passes that record files which are where they belong already.

    Attributes
    ----------
    counts : `collections.Counter`
        What the last pass counted.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def recover(self, context: PassContext) -> None:
        """See that the areas are there."""
        self.counts = context.counts
        super().recover(context)

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what would be recorded."""
        self.counts = context.counts
        return super().plan(context)


def _may_lead_to_files(seen: Entry) -> bool:
    """Return whether what a scan passed over may be a file, or lead to files.

    That is a file with a name of ours, a link to a directory, and what cannot be looked at; not a
    FIFO, nor a link to a file.
    """
    try:
        if not stat.S_ISLNK(mode := seen.lstat().st_mode):
            return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        directory = seen.where()
        return stat.S_ISDIR(os.stat(seen.name, dir_fd=directory.fd).st_mode)
    except FileNotFoundError:
        return False
    except OSError:
        return True
