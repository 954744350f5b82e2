"""What a finder has to tell an operator about single files: each once, and not thousands."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from dbbbatch.database import connect, retry
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.database.models.run import Run
from dbbbatch.files import names, place
from dbbbatch.passes.runner import PassContext

#: Complaints of one kind that are said one by one; then only that there are more.
MOST_SAID = 10

#: A finder that began no pass for so long has nothing in hand.
_AT_WORK = 86400.0


class Complaints:
    """Gathers what a pass meets, to be said at its end."""

    def __init__(self) -> None:
        self._kinds: dict[str, list[tuple[str, str]]] = {}
        self._counts: dict[str, int] = {}
        self._busy: Counter[str] = Counter()

    def odd(self, rel: str, what: str) -> None:
        """Note something in the source that is no file to be stored."""
        self._add("odd", rel, f"{names.printable(rel)}: {what}; it is left where it is")

    def failed(self, rel: str, message: str) -> None:
        """Note a file that could not be stored."""
        self._add("failed", rel, f"{names.printable(rel)}: {message}")

    def unread(self, path: str, what: str) -> None:
        """Note that a log, or what it said, was not read."""
        self._add("unread", path, f"{names.printable(path)}: {what}")

    def orphan(self, rel: str) -> None:
        """Note a file of storage that the table does not know."""
        self._add(
            "orphan",
            rel,
            f"{names.printable(rel)}: is in storage, but the table does not know it; dbb-auditor "
            "--adopt records it",
        )

    def forbidden(self, directory: str, error: OSError) -> None:
        """Note a directory of storage into which a file could not go."""
        if isinstance(error, place.ModeError):
            what = (
                f"{error.strerror}; files wait: mount it so that permissions can be set, and see "
                "to `file_mode`, `dir_mode` and `group`"
            )
        else:
            what = (
                f"{error.strerror}: this user cannot store files there; they wait, so see to its "
                "owner and mode"
            )
        self._add("forbidden", directory, f"{names.printable(directory)}: {what}")

    def busy(self, finder: str) -> None:
        """Note a file whose name another finder is storing."""
        self._busy[finder] += 1

    def about_others(self, p: PassContext, storage: str) -> None:
        """Note the files that wait for a finder which is not there any more."""
        for finder, count in self._busy.items():
            section = p.settings.finder.get(finder)
            if section is not None and section.storage == storage:
                continue
            run = connect.read(
                lambda finder=finder: Run.last(p.settings.site.name, "finder", finder)
            )
            now = connect.read(connect.now)
            if run is None or retry.is_due(run.started, _AT_WORK, now):
                self._add(
                    "busy",
                    finder,
                    f"{count} files wait for finder.{finder}, which began to store files of these "
                    "names and has made no pass for a day; one more pass of it helps, also if it "
                    f"has another name now: of a section [finder.{finder}] with the same source "
                    "and storage",
                )

    def about_quarantine(self, site: str, label: str) -> None:
        """Note the files that wait in quarantine, the oldest of them."""
        waiting = connect.read(lambda: list(islice(Quarantine.waiting(site, label), MOST_SAID + 1)))
        for row in waiting:
            self._add(
                "quarantine",
                names.join(row.relpath, row.filename),
                f"{names.join(row.relpath, row.filename)}: in quarantine: {row.reason}; "
                f"see `dbb quarantine list {label}`",
            )

    def say(self, p: PassContext) -> None:
        """Hand everything to the operator's notices."""
        for kind, complaints in self._kinds.items():
            for key, message in complaints:
                p.warn(message, key=f"{kind}: {key}")
            if self._counts[kind] > len(complaints):
                p.warn(f"and more of this ({kind}); `dbb status` counts them", key=f"{kind}…")

    def _add(self, kind: str, key: str, message: str) -> None:
        said = self._kinds.setdefault(kind, [])
        if (key, message) in said:
            return
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if len(said) < MOST_SAID:
            said.append((key, message))
