"""A buffer whose files go to two endpoints, and passes over either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dbbbatch.config import toml
from dbbbatch.passes import runner
from dbbbatch.passes.handoff.work import HandoffWork
from dbbbatch.passes.janitor import JanitorWork
from tests.support.handing import rows
from tests.support.site import Site

#: What the two are called: the one of `[handoff.latiss.endpoint]`, and a further one.
FIRST, BASE = "latiss", "latiss.base"

#: Without it no second test would find the first one's waits over.
KEYS: dict[str, Any] = {"min_free": 0}


def base(site: Site, directory: str = "buffer") -> Path:
    """Return a directory of the further endpoint."""
    return site.root / "base" / directory


def with_base(site: Site, *, keys: dict[str, Any] | None = None, **more: Any) -> Site:
    """Write a configuration with a further endpoint `base`, which a file `away` cuts off.

    Parameters
    ----------
    site : `Site`
    keys : `dict`
        Further keys of its table.
    **more
        As for `Site.write`.
    """
    for name in ("buffer", "staging"):
        base(site, name).mkdir(parents=True, exist_ok=True)
    reached = f'[ ! -e {away(site)} ] || exit 255; exec sh -c "$1"'
    table = {
        "buffer": base(site),
        "staging": base(site, "staging"),
        "host": "base",
        "remote": f"sh -c '{reached}' sh {{command}}",
        "transfer": "cp -p -- {batch} {dest}",
    }
    if site.by_stream:
        table.pop("transfer")
    more["handoff"] = {**KEYS, **more.get("handoff", {})}
    site.write(**more)
    document = toml.toml_document({f"handoff.{site.name}.endpoint.base": {**table, **(keys or {})}})
    with site.config.open("a") as file:
        file.write(document)
    return site


def away(site: Site) -> Path:
    """Return the file that cuts the further endpoint off while it is there."""
    return site.root / "away"


def make_pass(site: Site, name: str = FIRST, **options: Any) -> int:
    """Make a pass over one endpoint, in this process."""
    settings = site.settings()
    section = settings.section("handoff", name)
    return runner.run_pass(HandoffWork(section), settings, section, runner.Options(**options))


def janitor(site: Site, name: str = FIRST) -> int:
    """Make a janitor's pass over one endpoint, in this process."""
    settings = site.settings()
    section = settings.section("handoff", name)
    return runner.run_pass(JanitorWork(section), settings, section, runner.Options())


def states(site: Site, of: str = "") -> dict[str, list[str]]:
    """Return the statuses of the versions of each file, or of one, by the name of its endpoint."""
    found: dict[str, list[str]] = {}
    for handoff, name, status, _ in sorted(
        rows(site, "handoff, filename, status, id"), key=lambda row: row[3]
    ):
        if not of or name == of:
            found.setdefault(handoff, []).append(status)
    return found
