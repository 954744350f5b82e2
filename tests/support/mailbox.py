"""A command for [alert] that keeps its messages, and can be broken."""

from pathlib import Path


class Box:
    """The messages that an alert command was given.

    Attributes
    ----------
    broken : `pathlib.Path`
        While this exists, the command fails with exit code 7.
    command : `str`
        For the configuration.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self.broken = directory / "broken"
        name = f"{directory}/$(date +%s%N)"
        self.command = f"sh -c 'test ! -e {self.broken} && cat > {name}.mail || exit 7'"

    def new(self) -> list[str]:
        """Return the messages that came since the last time."""
        paths = sorted(self._directory.glob("*.mail"))
        found = [path.read_text() for path in paths]
        for path in paths:
            path.unlink()
        return found
