"""`dbb butler`: make or complete a Gen3 repository for an instrument."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import click

from dbbbatch.cli import output
from dbbbatch.cli.dbb import Operator
from dbbbatch.errors import ConfigError, TryLater, UsageError


@click.group()
def command() -> None:
    """Prepare a Butler repository."""


@command.command("prepare")
@click.argument("label", metavar="[KIND.NAME]", required=False)
@click.option("--instrument", required=True, metavar="NAME", help="LSSTCam, LATISS, HSC, DECam, …")
@click.option("--repo", metavar="WHERE", help="The repository, not that of the target's section.")
@click.option("--dataset-type", metavar="NAME", help="Dataset type of its raw files.")
@click.option("--run", metavar="NAME", help="Collection that they are put into.")
@click.option(
    "--storage-class",
    default="",
    metavar="NAME",
    help="Of a new dataset type: Exposure for the LSST stack (the default for a target with task); "
    "else by default what astropy can read.",
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
    help="A raw file to learn detectors from (any of several).",
)
@click.option(
    "--update",
    is_flag=True,
    help="Change records of the instrument that differ from what is known of it.",
)
@click.pass_obj
def prepare_command(
    operator: Operator,
    label: str | None,
    instrument: str,
    repo: str | None,
    dataset_type: str | None,
    run: str | None,
    storage_class: str,
    database: str,
    namespace: str,
    files: tuple[str, ...],
    update: bool,
) -> None:
    """Make the repository of the target KIND.NAME, or complete it, for raw files of an instrument.

    What is there already is left as it is, unless --update is given. With --repo, no configuration
    is needed.
    """
    from dbbbatch.targets.plugin import Misconfigured, NotReady

    settings = _settings(operator, label, repo)
    try:
        from dbbbatch.targets.butler import prepare as repositories
    except ImportError as error:
        raise ConfigError(
            f"the Butler's packages are not installed ({error}): pip install 'dbbbatch[butler]'"
        ) from None
    chosen = {"dataset_type": dataset_type, "run": run}
    if repo is not None and not repositories.is_alias(repo):
        chosen["repo"] = os.path.abspath(repo)
    settings = replace(settings, **{name: value for name, value in chosen.items() if value})
    registry = {"db": database, "namespace": namespace} if database else {}
    done = False
    try:
        for line in repositories.prepare(
            settings,
            instrument,
            # The stack's task takes no other.
            storage_class=storage_class or ("Exposure" if settings.task else ""),
            registry={name: value for name, value in registry.items() if value},
            files=files,
            update=update,
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
    """Return the plugin's settings: of the section named, of the only one, or of no section."""
    from dbbbatch.config import fields
    from dbbbatch.targets import registry
    from dbbbatch.targets.butler.settings import Gen3Settings
    from dbbbatch.targets.plugin import Misconfigured

    if repo is not None:
        if label is not None:
            raise UsageError("either KIND.NAME or --repo is wanted, not both")
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
            raise UsageError(f'{label} is no target with plugin = "butler-gen3"')
    try:
        return registry.read_settings(registry.find("butler-gen3"), section.config, section.label)
    except Misconfigured as error:
        raise ConfigError(f"[{section.label}] {error}") from None
