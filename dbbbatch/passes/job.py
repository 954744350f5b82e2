"""A pass as an object of its own, so that nothing of one pass is kept for the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from dbbbatch.passes.context import PassContext
from dbbbatch.passes.runner import Work


class Job(ABC):
    """One pass.

    Parameters
    ----------
    context : `dbbbatch.passes.context.PassContext`
    """

    def __init__(self, context: PassContext) -> None:
        self.context = context

    @abstractmethod
    def recover(self) -> None:
        """Finish or take back what an earlier pass had begun."""

    @abstractmethod
    def work(self) -> None:
        """Do what is due, in batches; between two of them look at ``context.stopping``."""

    @abstractmethod
    def plan(self) -> Iterator[str]:
        """Yield what a pass would finish and then do, a line each; change nothing."""

    @abstractmethod
    def due(self) -> bool:
        """Return whether there is work now; warn of nothing."""


class JobWork(Work):
    """Passes, each of which is a `Job`."""

    @abstractmethod
    def job(self, context: PassContext) -> Job:
        """Return a new pass."""

    def recover(self, context: PassContext) -> None:
        """Finish or take back what an earlier pass had begun."""
        self.job(context).recover()

    def work(self, context: PassContext) -> None:
        """Do what is due, in batches."""
        self.job(context).work()

    def plan(self, context: PassContext) -> Iterator[str]:
        """Yield what a pass would finish and then do."""
        return self.job(context).plan()

    def due(self, context: PassContext) -> bool:
        """Return whether there is work now."""
        return self.job(context).due()
