"""`dbb check`: `dbb config check`, for who looks for it here."""

from dbbbatch.cli.config import check_command as command

__all__ = ["command"]
