"""dbb-handoff over a real sshd on loopback, against rsync alone and against its own steps in a row.

Wanted: small files at most 1.4 times rsync's time; large files at least 0.65 of rsync's rate and
faster than the same steps one after another; a second pass with everything undelivered reads
nothing again; a million files within 150 MiB, the first one delivered within 30 s.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import measure

PARTS = ("small", "large", "undelivered", "million")


@dataclass
class Bench:
    """A place to work in, a server to send to, and how much to do."""

    directory: Path
    server: object
    repeats: int
    less: int

    @contextmanager
    def site(self, **keys: object) -> Iterator[object]:
        """Two fresh sites on a fresh SQLite database."""
        from tests.support.database import initialise
        from tests.support.site import Site

        with tempfile.TemporaryDirectory(prefix="site-", dir=self.directory) as name:
            url = f"sqlite:///{name}/dbb.sqlite"
            initialise(url)
            site = Site(Path(name) / "site", url, self.server)
            yield site.write(**keys)

    def pool(self, files: int, size: int, directories: int) -> Path:
        """Files that every run uses anew: they are renamed into place and back."""
        pool = self.directory / f"pool-{size}"
        measure.make_files(pool, files, size, directories)
        return pool


def rsync(bench: Bench, pool: Path) -> float:
    """The peer: one rsync that removes what it sent."""
    with bench.site() as site:
        swap(pool, site.buffer)
        target = f"{bench.server.user}@{bench.server.host}:{site.far_buffer}/"
        command = ["rsync", "-a", "--remove-source-files", "-e", f"ssh {bench.server.options}"]
        took = measure.seconds([*command, f"{site.buffer}/", target])
        swap(site.far_buffer, pool)
    return took


def in_a_row(bench: Bench, pool: Path) -> float:
    """The same steps, each on all files before the next: hash, send, verify, sync, place, hold."""
    with bench.site() as site:
        swap(pool, site.buffer)
        ssh = ["ssh", *bench.server.options.split(), "-l", bench.server.user, bench.server.host]
        os.sync()
        begin = time.perf_counter()
        sums = b""
        for rel in relative_paths(site.buffer):
            content = hashlib.blake2b()
            with open(site.buffer / rel, "rb", buffering=0) as file:
                while block := file.read(1 << 20):
                    content.update(block)
            sums += f"{content.hexdigest()}  {rel}\n".encode()
        target = f"{bench.server.user}@{bench.server.host}:{site.staging}/"
        measure_free = ["rsync", "-a", "-e", f"ssh {bench.server.options}", f"{site.buffer}/"]
        subprocess.run([*measure_free, target], check=True, stdin=subprocess.DEVNULL)
        there = f"cd {site.staging} && b2sum -c --quiet && sync -f . && mv * {site.far_buffer}/"
        subprocess.run([*ssh, f"{there} && sync -f ."], input=sums, check=True)
        for rel in relative_paths(site.buffer):
            held = site.holding / rel
            held.parent.mkdir(parents=True, exist_ok=True)
            os.rename(site.buffer / rel, held)
        os.sync()
        took = time.perf_counter() - begin
        swap(site.holding, pool)
    return took


def ours(bench: Bench, pool: Path, **keys: object) -> float:
    """dbb-handoff, by the rsync template; checked to have delivered and held everything."""
    with bench.site(**keys) as site:
        swap(pool, site.buffer)
        expected = len(relative_paths(site.buffer))
        took = measure.seconds([*measure.script("dbb-handoff"), "-c", str(site.config)])
        for place in (site.far_buffer, site.holding):
            found = len(relative_paths(place))
            if found != expected:
                raise RuntimeError(f"{found} of {expected} files in {place}")
        swap(site.holding, pool)
    return took


def small(bench: Bench) -> None:
    """Small files: connections, verification and durability are what they cost."""
    files = 10_250 // bench.less
    pool = bench.pool(files, 64 * 1024, 50)
    times = measure.in_turn(
        {
            "rsync": lambda: rsync(bench, pool),
            "dbb-handoff": lambda: ours(bench, pool),
            "dbb-handoff, 1 stream": lambda: ours(bench, pool, handoff={"streams": 1}),
        },
        bench.repeats,
    )
    measure.show(
        f"{files:,} files of 64 KiB in 50 directories",
        times,
        "rsync",
        wanted={"dbb-handoff": "<= 1.4"},
        amount=files,
        unit="files",
    )
    shutil.rmtree(pool)


def large(bench: Bench) -> None:
    """Large files: two hashes and rsync share the processors."""
    files = 410 // bench.less
    pool = bench.pool(files, 4 * 1024 * 1024, 5)
    times = measure.in_turn(
        {
            "rsync": lambda: rsync(bench, pool),
            "dbb-handoff": lambda: ours(bench, pool),
            "its steps in a row": lambda: in_a_row(bench, pool),
        },
        bench.repeats,
    )
    measure.show(
        f"{files} files of 4 MiB",
        times,
        "rsync",
        wanted={"dbb-handoff": ">= 0.65", "its steps in a row": "< dbb-handoff"},
        amount=files * 4,
        unit="MiB",
        rate=True,
    )
    shutil.rmtree(pool)


def undelivered(bench: Bench) -> None:
    """What a pass reads of files that an earlier pass hashed and could not deliver."""
    files = 1000 // bench.less
    pool = bench.pool(files, 64 * 1024, 5)
    rows = [("", "seconds", "MiB read", "wanted")]
    keys = {"handoff": {"retry_wait": "0s"}, "endpoint": {"transfer": "false {batch} {dest}"}}
    with bench.site(**keys) as site:
        swap(pool, site.buffer)
        command = [*measure.script("dbb-handoff"), "-c", str(site.config)]
        nothing = bytes_read(lambda: measure.seconds([*command, "--dry-run", "--limit", "1"]))[1]
        for name, wanted in (("first pass", f"{files / 16:.0f}"), ("second pass", "0")):
            took, read = bytes_read(lambda: measure.seconds(command, codes=(0, 1, 75)))
            rows.append((name, f"{took:.2f}", f"{max(0, read - nothing) / 2**20:.1f}", wanted))
        swap(site.buffer, pool)
    print(f"\n{files:,} files of 64 KiB and a transfer command that always fails")
    measure.print_rows(rows)
    shutil.rmtree(pool)


def million(bench: Bench) -> None:
    """A buffer that filled for a month: memory, and how soon the first file arrives."""
    files = 1_000_000 // bench.less
    with bench.site() as site:
        measure.make_files(site.buffer, files, 16, 1000)
        first: list[float] = []
        memory: list[float] = []
        begin = time.perf_counter()
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                if any(names for _, _, names in os.walk(site.far_buffer)):
                    first.append(time.perf_counter() - begin)
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        command = [*measure.script("dbb-handoff"), "-c", str(site.config), "--max-time", "90s"]
        took = measure.seconds(command, memory=memory)
        over.set()
        watcher.join()
        delivered = len(relative_paths(site.far_buffer))
    print(f"\n{files:,} files in the buffer, --max-time 90s")
    arrived = f"{first[0]:.1f} s" if first else "never"
    measure.print_rows(
        [
            ("", "figure", "wanted"),
            ("first file in the endpoint's buffer after", arrived, "<= 30 s"),
            ("peak memory of the pass or a child of it", f"{memory[0]:.0f} MiB", "<= 150 MiB"),
            ("delivered", f"{delivered:,}", ""),
            ("duration of the pass", f"{took:.1f} s", ""),
        ]
    )


def swap(source: Path, target: Path) -> None:
    """Rename a tree to where an empty directory may be, and leave an empty one behind."""
    if target.exists():
        shutil.rmtree(target)
    source.rename(target)
    source.mkdir()


def relative_paths(directory: Path) -> list[str]:
    """All files below, relative to it."""
    return [
        os.path.relpath(os.path.join(top, name), directory)
        for top, _, names in os.walk(directory)
        for name in names
    ]


def bytes_read(run: Callable[[], float]) -> tuple[float, int]:
    """Seconds that a run took and bytes that its processes asked to read."""
    before = measure.read_so_far()
    took = run()
    return took, measure.read_so_far() - before


def main() -> None:
    """Print a table for each part."""
    given = measure.arguments(__doc__, PARTS)
    from tests.support import ssh

    if what := ssh.missing():
        sys.exit(what)
    with measure.working_directory(given.directory) as directory:
        (directory / "ssh").mkdir()
        server = ssh.SshServer(directory / "ssh")
        server.start()
        try:
            bench = Bench(directory, server, given.repeats, 10 if given.quick else 1)
            for part in given.part or PARTS:
                {"small": small, "large": large, "undelivered": undelivered, "million": million}[
                    part
                ](bench)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
