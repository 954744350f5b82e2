"""Which options of a client's rsync are let through."""

import shlex

import pytest

from dbbbatch.areas.endpoint.rsync_server import parse_call
from dbbbatch.errors import UsageError

pytestmark = pytest.mark.promise

SERVER = "rsync --server"


@pytest.mark.parametrize(
    ("options", "partials"),
    [
        # As rsync 3.2 to 3.5 ask for them, by the templates of the pages.
        (
            "-tpRe.LsfxCIvu --timeout=60 --partial-dir /st/dbb-partial --no-implied-dirs",
            "dbb-partial",
        ),
        ("-tpRe.iLsfxCIvu --partial-dir=/st/.rsync-partial", ".rsync-partial"),
        ("-lWogDtpRe.LsfxCIvu", ""),
        ("-vtpze.LsfxCIvu --bwlimit=20480 --stats", ""),
        ("-tpe.LsfxCIvu --partial-dir partial", ""),
        ("-tpe.LsfxCIvu --log-format=%i --compress-choice=zstd --compress-level=3", ""),
    ],
)
def test_what_only_copies_is_let_through(options: str, partials: str) -> None:
    for dest in ("/st/dbb-a-0/t/", "/st/dbb-a-0/t//", "/st/dbb-a-0/12/"):
        words = shlex.split(f"{SERVER} {options} . {dest}")
        assert parse_call(words, "/st") == (words, "dbb-a-0", partials)


@pytest.mark.parametrize(
    "words",
    [
        "",
        ".",
        "-t /st/a/t/",
        "-t . /st/a/t/ /st/a/t/",
        "-t . /st/a/",
        "-t . /st/t/",
        "-t . /st/../t/",
        "-t . /st/a/t/../../x/",
        "-t . /st/a/t/sub/",
        "-t . /st/a/1x/",
        "-t . /stx/a/t/",
        "-t . st/a/t/",
        "-t . '/st/a/t/\n'",
        "-t ./x /st/a/t/",
        "--sender -t . /st/a/t/",
        "--daemon . /st/a/t/",
        "--config=/tmp/x --daemon . /st/a/t/",
        "-s . /st/a/t/",
        "-K . /st/a/t/",
        "-L . /st/a/t/",
        "-k . /st/a/t/",
        "-b . /st/a/t/",
        "-X . /st/a/t/",
        "-A . /st/a/t/",
        "-e.LsfxCIvu-x . /st/a/t/",
        "-M--sender . /st/a/t/",
        "--delete . /st/a/t/",
        "--remove-source-files . /st/a/t/",
        "--log-file=/tmp/x . /st/a/t/",
        "--log-format=%i/../x;x . /st/a/t/",
        "--link-dest=/x . /st/a/t/",
        "--copy-dest /x . /st/a/t/",
        "--compare-dest=/x . /st/a/t/",
        "--temp-dir=/x . /st/a/t/",
        "-T /x . /st/a/t/",
        "--backup-dir=/x . /st/a/t/",
        "--files-from=/etc/passwd . /st/a/t/",
        "--exclude-from=/etc/passwd . /st/a/t/",
        "--password-file=/x . /st/a/t/",
        "--write-devices . /st/a/t/",
        "--chmod=u+s . /st/a/t/",
        "--super . /st/a/t/",
        "--usermap=a:b . /st/a/t/",
        "--partial-dir=/x . /st/a/t/",
        "--partial-dir=/st/a . /st/a/t/",
        "--partial-dir=/st/a/partial . /st/a/t/",
        "--partial-dir=../partial . /st/a/t/",
        "--partial-dir . /st/a/t/",
        "--timeout=$(id) . /st/a/t/",
        "--timeout . /st/a/t/",
    ],
)
def test_anything_else_is_refused(words: str) -> None:
    with pytest.raises(UsageError, match="rsync: "):
        parse_call(shlex.split(f"{SERVER} {words}"), "/st")
