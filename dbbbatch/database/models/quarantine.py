"""Files in quarantine, which wait for a person."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime

import peewee

from dbbbatch.database.base import Table, TimeField
from dbbbatch.database.models.file import Name
from dbbbatch.files import names


class Quarantine(Table):
    """A file in quarantine, of a handoff or a finder.

    Attributes
    ----------
    label : `str`
        The section whose file it was, such as "finder.latiss".
    relpath, filename : `str`
        Its path before, relative to the source.
    path : `str`
        Its path now, as `dbbbatch.files.names.to_text` writes it.
    quarantined_at : `datetime.datetime` or `None`
        When it was moved; `None` while that is only an intent.
    released_at : `datetime.datetime` or `None`
        When a person released it or left it there.
    released_as : `str` or `None`
        The path to which it is released; `None` if it stays.
    """

    id = peewee.BigAutoField()
    site = peewee.TextField()
    label = peewee.TextField()
    relpath = peewee.TextField()
    filename = peewee.TextField()
    path = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    mtime_ns = peewee.BigIntegerField()
    inode = peewee.BigIntegerField()
    checksum = peewee.TextField(null=True)
    reason = peewee.TextField()
    quarantined_at = TimeField(null=True)
    released_at = TimeField(null=True)
    released_as = peewee.TextField(null=True)

    @classmethod
    def intend(cls, **values: object) -> Quarantine:
        """Record that a file is about to be moved here; an older intent for its path is deleted."""
        cls.delete().where(
            cls.site == values["site"],
            cls.label == values["label"],
            cls.path == values["path"],
            cls.quarantined_at.is_null(),
        ).execute()
        return cls.create(**values)

    @classmethod
    def moving(cls, site: str, label: str) -> list[Quarantine]:
        """Return the intents of a section that are not finished."""
        return list(
            cls.select()
            .where(cls.site == site, cls.label == label, cls.quarantined_at.is_null())
            .order_by(cls.id)
        )

    @classmethod
    def waiting(cls, site: str, label: str | None = None) -> Iterator[Quarantine]:
        """Yield the files that wait for a person, oldest first."""
        query = cls.select().where(cls.site == site, cls.released_at.is_null())
        if label is not None:
            query = query.where(cls.label == label)
        yield from query.order_by(cls.id).iterator()

    @classmethod
    def on_the_way_back(cls, site: str, label: str) -> list[Quarantine]:
        """Return the files that a person released and whose move back is not recorded."""
        return list(
            cls.select()
            .where(
                cls.site == site,
                cls.label == label,
                cls.released_at.is_null(),
                cls.released_as.is_null(False),
            )
            .order_by(cls.id)
        )

    @classmethod
    def paths_of(
        cls, site: str, label: str, name: Name, size_bytes: int, mtime_ns: int
    ) -> list[str]:
        """Return the paths of the files that wait and are some version of a name."""
        return [
            quarantined.path
            for quarantined in cls.select(cls.path).where(
                cls.site == site,
                cls.label == label,
                cls.relpath == name[0],
                cls.filename == name[1],
                cls.size_bytes == size_bytes,
                cls.mtime_ns == mtime_ns,
                cls.released_at.is_null(),
            )
        ]

    @classmethod
    def paths_among(cls, site: str, paths: Collection[str]) -> set[str]:
        """Return which paths are those of files that wait."""
        # A file that was released from there is not the one that is there now.
        query = cls.select(cls.path).where(
            cls.site == site, cls.path.in_(list(paths)), cls.released_at.is_null()
        )
        return {row.path for row in query}

    @classmethod
    def is_at(cls, path: str) -> bool:
        """Return whether the file at a path, of the same name as before, is in quarantine."""
        return bool(
            cls.select()
            .where(
                cls.filename == path.rpartition("/")[2], cls.path == path, cls.released_at.is_null()
            )
            .exists()
        )

    def path_fault(self, root: str, source: str) -> str:
        """Return which path leads out of the quarantine `root`, or out of `source`; '' if none."""
        if why := names.fault(self):
            return why
        for text, top in ((self.path, root), (self.released_as, source)):
            if text is not None and not names.stays_inside(names.readable(text), top):
                return (
                    f"{names.printable(text)!r} is not below {top} (if the configuration had "
                    "another path when the row was written, put that back)"
                )
        return ""

    def arrived(self, when: datetime) -> None:
        """Record that it has been moved to quarantine."""
        self.quarantined_at = when
        self.save(only=[type(self).quarantined_at])

    def withdraw(self) -> None:
        """Take the intent back: the file was not moved."""
        type(self).delete().where(
            type(self).id == self.id, type(self).quarantined_at.is_null()
        ).execute()

    def releasing(self, where: str | None) -> None:
        """Record where a person releases it to, before it is moved; `None` takes that back."""
        self.released_as = where
        self.save(only=[type(self).released_as])

    def released(self, when: datetime) -> None:
        """Record that it has been moved to where it was released to."""
        self.released_at = when
        self.save(only=[type(self).released_at])

    def left(self, when: datetime, why: str) -> bool:
        """Record that a person leaves it where it is; return False if one has decided already."""
        table = type(self)
        values = {"released_at": when, "released_as": None, "reason": f"{self.reason}; {why}"}
        return bool(
            table.update(values).where(table.id == self.id, table.released_at.is_null()).execute()
        )
