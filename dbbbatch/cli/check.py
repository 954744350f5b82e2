"""`dbb check`: `dbb config check`, for who looks for it here."""

from dbbbatch.cli.config import check as command

__all__ = ["command"]
