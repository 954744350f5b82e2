"""Arguments that name a section: what a shell completes them with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import click

from dbbbatch.cli.operator import Operator
from dbbbatch.config.load import load
from dbbbatch.passes.overdue import SECTION_OF


class SectionName(click.types.StringParamType):
    """The name of a section, which is completed from the configuration.

    Parameters
    ----------
    kinds : `~collections.abc.Sequence` [ `str` ]
        Of which kinds: "handoff", "finder", "target", "janitor", "auditor".
    labelled : `bool`
        It is written as KIND.NAME.
    """

    def __init__(self, kinds: Sequence[str], labelled: bool) -> None:
        self._kinds = kinds
        self._labelled = labelled

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[Any]:
        """Return the names that begin so; none where the configuration cannot be read."""
        from click.shell_completion import CompletionItem

        with suppress(Exception):
            return [CompletionItem(one) for one in self._names(ctx) if one.startswith(incomplete)]
        return []

    def _names(self, ctx: click.Context) -> Iterator[str]:
        operator = ctx.find_object(Operator)
        settings = load(ctx.params.get("config") or (operator.given if operator else None))
        for kind in self._kinds:
            for name in settings.names(SECTION_OF.get(kind, kind)):
                yield f"{kind}.{name}" if self._labelled else name


def complete_sections(command: click.Command) -> None:
    """Let the argument KIND.NAME of a command be completed."""
    for parameter in command.params:
        if parameter.name in ("label", "component"):
            found = re.match(r"\[?([a-z]+)\.NAME", parameter.metavar or "")
            passes = ["janitor", "auditor"] if command.name in ("pause", "resume") else []
            kinds = [found[1]] if found else ["handoff", "finder", "target", *passes]
            parameter.type = SectionName(kinds, labelled=True)
