"""A file as it is registered with Rucio: its names, checksums, and what is done of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dbbbatch.targets.plugin import Outcome, Result, StoredFile

#: Scope and name.
Did = tuple[str, str]

#: Parts of an attempt.
REPLICA, DATASET, METADATA = "replica", "dataset", "metadata"


@dataclass(slots=True)
class Registration:
    """A file as it is registered."""

    file: StoredFile
    scope: str
    name: str
    sums: dict[str, str]
    pfn: str
    dataset: Did | None
    metadata: dict[str, str]
    computed: dict[str, str] = field(default_factory=dict)
    #: The parts that were found or done, in this batch or an earlier attempt.
    parts: set[str] = field(default_factory=set)
    #: Whether this attempt registered the replica.
    new: bool = False
    #: Whether the server has a file of this name, on whichever element.
    known: bool = False
    #: How the server's record contradicts the file, for an operator.
    difference: str = ""

    @property
    def did(self) -> Did:
        """Scope and name."""
        return self.scope, self.name

    @property
    def described(self) -> dict[str, Any]:
        """The file itself, as the server records it."""
        return {"scope": self.scope, "name": self.name, "bytes": self.file.size_bytes} | self.sums

    def outcome(self, result: Result, message: str) -> Outcome:
        """Return what became of it, with what was done and computed on the way."""
        return Outcome(
            self.file.number,
            result,
            message,
            parts_done=frozenset(self.parts) if result is Result.PARTLY else frozenset(),
            checksums=self.computed,
        )
