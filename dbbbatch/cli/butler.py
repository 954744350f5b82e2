"""`dbb butler`: make or complete a Gen3 repository for an instrument."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import click

from dbbbatch.cli import output
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import ConfigError, TryLater, UsageError


@click.group()
def command() -> None:
    """Prepare a Butler repository."""


@command.command("prepare")
@click.argument("label", metavar="[KIND.NAME]", required=False)
@click.option("--instrument", required=True, metavar="NAME", help="LSSTCam, LATISS, HSC, DECam, …")
@click.option(
    "--repo", metavar="WHERE", help="The repository, instead of that of the target's section."
)
@click.option("--dataset-type", metavar="NAME", help="Dataset type of its raw files.")
@click.option("--run", metavar="NAME", help="Collection for its raw files.")
@click.option(
    "--storage-class",
    default="",
    metavar="NAME",
    help="Of a new dataset type: Exposure for the LSST stack (the default for a target with task); "
    "otherwise, by default, what astropy can read.",
)
@click.option(
    "--database",
    default="",
    metavar="URL",
    help="Of a new repository: postgresql://…; by default SQLite in its directory.",
)
@click.option("--namespace", default="", metavar="NAME", help="Schema in that database.")
@click.option(
    "--files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A raw file from which to learn detectors (any of several).",
)
@click.option(
    "--update",
    is_flag=True,
    help="Change records of the instrument that differ from its definition.",
)
@click.pass_obj
def prepare_command(
    operator: Operator,
    /,
    label: str | None,
    instrument: str,
    repo: str | None,
    storage_class: str,
    **options: Any,
) -> None:
    """Make the repository of the target KIND.NAME, or complete it, for raw files of an instrument.

    What it has already is left as it is, unless --update is given. With --repo, no configuration is
    needed.
    """
    from dbbbatch.targets.plugin import Misconfigured, NotReady

    settings = _settings(operator, label, repo)
    try:
        from dbbbatch.targets.butler import prepare as repositories
    except ImportError as error:
        raise ConfigError(
            f"the Butler's packages are not installed ({error}): pip install 'dbbbatch[butler]'"
        ) from None
    chosen = {key: options[key] for key in ("dataset_type", "run") if options[key]}
    if repo is not None and not repositories.is_alias(repo):
        chosen["repo"] = os.path.abspath(repo)
    settings = replace(settings, **chosen)
    registry = {"db": options["database"], "namespace": options["namespace"]}
    done = False
    try:
        for line in repositories.prepare(
            settings,
            instrument,
            # The stack's task accepts no other.
            storage_class=storage_class or ("Exposure" if settings.task else ""),
            registry={key: value for key, value in registry.items() if value and registry["db"]},
            files=options["files"],
            update=options["update"],
        ):
            output.line(line)
            done = True
    except NotReady as error:
        raise TryLater(str(error)) from None
    except (Misconfigured, ImportError) as error:
        raise ConfigError(str(error)) from None
    if not done:
        output.line(f"{settings.repo} is ready for {instrument}")


def _settings(operator: Operator, label: str | None, repo: str | None) -> Any:
    """Return the plugin's settings: of a section, of the only one, or made for --repo."""
    from dbbbatch.config import fields
    from dbbbatch.targets import registry
    from dbbbatch.targets.butler.settings import Gen3Settings
    from dbbbatch.targets.plugin import Misconfigured

    if repo is not None:
        if label is not None:
            raise UsageError("expected KIND.NAME or --repo, not both")
        return fields.defaults(Gen3Settings, repo=repo)
    targets = operator.settings.target.values()
    if label is None:
        found = [target for target in targets if target.plugin == "butler-gen3"]
        if len(found) != 1:
            raise UsageError(
                f'{len(found)} targets have plugin = "butler-gen3"; name one, or give --repo'
            )
        section: Any = found[0]
    else:
        section = operator.settings.labelled(label)
        if getattr(section, "plugin", None) != "butler-gen3":
            raise UsageError(f'{label} is not a target with plugin = "butler-gen3"')
    try:
        return registry.read_settings(registry.find("butler-gen3"), section.config, section.label)
    except Misconfigured as error:
        raise ConfigError(f"[{section.label}] {error}") from None
