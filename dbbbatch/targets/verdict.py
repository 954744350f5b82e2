"""What the pass is told about one file: the plugin's outcome, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

#: What is said, first of all, of a file that is not there.
MISSING = "not in the storage area"


class Kind(Enum):
    """The results that a plugin may give (`dbbbatch.targets.plugin.Result`), and further ones."""

    DONE = "done"
    ALREADY = "already"
    LATER = "later"
    FAILED = "failed"
    NEVER = "never"
    PARTLY = "partly"
    #: The plugin died or hung with the file in hand: whether it was ingested is not known.
    UNKNOWN = "unknown"
    #: The file is not in the storage area, and so was not offered.
    MISSING = "missing"
    #: The file is empty, and so was not offered.
    EMPTY = "empty"
    #: The file is not what was stored (another size, no regular file, not readable); not offered.
    ALTERED = "altered"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one file.

    Attributes
    ----------
    number : `int`
        The file's number.
    kind : `Kind`
        See there.
    message, version : `str`
        As in an outcome.
    parts_done : `frozenset` [`str`]
        Parts finished in this attempt.
    checksums : mapping
        Algorithm to hexadecimal digits, computed by the plugin.
    begun : `float`
        When the plugin took the file in hand, by `time.monotonic`.
    seconds : `float`
        How long it had it in hand.
    """

    number: int
    kind: Kind
    message: str = ""
    version: str = ""
    parts_done: frozenset[str] = frozenset()
    checksums: Mapping[str, str] = field(default_factory=dict)
    begun: float = 0.0
    seconds: float = 0.0
