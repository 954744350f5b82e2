"""`dbb check`: another name of `dbb config check`."""

from dbbbatch.cli.config import check_command as command

__all__ = ["command"]
