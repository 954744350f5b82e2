"""`dbb receive`: the only command of another site's ssh key."""

import io
import os
import shlex
import sys
from typing import cast

import click

from dbbbatch.cli.confirm import answer_question
from dbbbatch.cli.operator import Operator
from dbbbatch.errors import UsageError


@click.command()
@click.argument("name")
@click.pass_obj
def command(operator: Operator, name: str) -> None:
    """Do for another site's handoff what the section [receive.NAME] allows, and nothing else.

    It is not for people: sshd runs it for a key, in whose line of authorized_keys it is the forced
    command, and the request is in the variable SSH_ORIGINAL_COMMAND.
    """
    from dbbbatch.areas.endpoint import session

    settings = operator.settings
    settings.chosen("receive", name)
    settings.require(f"receive.{name}")
    section = settings.receive[name]
    asked = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    if asked == session.READ_SCRIPT:
        from dbbbatch.areas.endpoint.receiver import receive

        os.umask(0)  # each file and directory is made with the permissions that it is to have
        receive(section, cast(io.BufferedIOBase, sys.stdin.buffer), sys.stdout.buffer)
        return
    try:
        words = shlex.split(asked)
    except ValueError:
        words = []
    if words[:2] == ["rsync", "--server"]:
        from dbbbatch.areas.endpoint.rsync_server import serve_rsync

        serve_rsync(section, words)
    if [os.path.basename(word) for word in words[:1] + words[-1:]] == ["dbb", "confirm"]:
        if not section.confirm:
            raise UsageError(f"[{section.label}] confirm: names no storage area")
        answer_question(operator, section.confirm, tells_history=section.history)
        return
    raise UsageError(
        f"this key may only deliver to receive.{name} and ask what is stored: no shell, no sftp, "
        "no other command; or the two sites have different versions of dbbbatch"
    )
