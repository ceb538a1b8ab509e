"""What a disk gives at best: fio reads the same files past the page cache, into huge pages where it can."""

import contextlib
import dataclasses
import pathlib
import shutil

from common import Unavailable, execute, parsed, say

DEPTHS = (2, 4, 8, 16, 32)
BLOCKS = (1 << 19, 1 << 20, 2 << 20, 4 << 20, 8 << 20)
PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
HUGE = 2 << 20


@dataclasses.dataclass(frozen=True)
class Way:
    engine: str
    depth: int
    block: int
    huge: bool

    def __str__(self):
        pages = "huge pages" if self.huge else "ordinary pages"
        return f"fio, {self.engine}, depth {self.depth}, {self.block / (1 << 20):g} MiB, {pages}"


class Disk:
    """Reads `files` by fio, in the few ways that were the fastest in a scan."""

    def __init__(self, files, args):
        if not shutil.which("fio"):
            raise Unavailable("fio is not installed")
        self.files, self.args = files, args
        self.ways, self.turns = [], 0

    def scan(self):
        """Tries every depth and block, then the fastest for longer, and keeps the fastest few."""
        engine, huge = self.first()
        rates = {}
        for number, (block, depth) in enumerate((b, d) for b in BLOCKS for d in DEPTHS):
            way = Way(engine, depth, block, huge)
            # Every try begins elsewhere: what was read a moment ago may be in a cache below this machine.
            rates[way] = self.read(way, self.args.scan_seconds, start=number * 37 % 90)
        fastest = sorted(rates, key=rates.get)[-5:]
        # Huge pages are not faster everywhere.
        fastest += [dataclasses.replace(fastest[-1], huge=False)] if huge else []
        again = {way: self.read(way, 3 * self.args.scan_seconds, start=n * 17) for n, way in enumerate(fastest)}
        self.ways = sorted(again, key=again.get)[-self.args.limit_ways :]
        for way in self.ways:
            say(f"disk: {way}: {again[way] / 1e9:.2f} GB/s")

    def first(self):
        """The way that is there: io_uring before libaio, huge pages before ordinary ones."""
        error = None
        for engine in ("io_uring", "libaio"):
            for huge in (True, False):
                try:
                    self.read(Way(engine, max(DEPTHS), max(BLOCKS), huge), 1)
                    return engine, huge
                except Unavailable as failure:
                    error = failure
        raise error

    def measure(self):
        """Bytes per second in each of the ways, one after the other, over parts of the files that change."""
        rates = {}
        for way in self.ways:
            self.turns += 1
            rates[way] = self.read(way, self.args.limit_seconds, start=self.turns * 7 % 20)
        return rates

    def read(self, way, seconds, start=0):
        names = ":".join(str(file).replace(":", "\\:") for file in self.files)
        command = ["fio", "--name=limit", f"--filename={names}", "--rw=read", "--readonly", "--direct=1"]
        command += [f"--ioengine={way.engine}", f"--iodepth={way.depth}", f"--bs={way.block}"]
        command += ["--file_service_type=sequential", f"--runtime={seconds}", "--output-format=json"]
        command += ["--time_based=1", f"--offset={start}%"]
        if way.engine == "io_uring":
            command += ["--fixedbufs=1", "--registerfiles=1"]
        with huge_pages(way.depth * way.block) if way.huge else contextlib.nullcontext():
            if way.huge:
                command += ["--iomem=shmhuge"]
            answer = parsed(execute(command, what=str(way), timeout=self.args.timeout), "fio")
        job = answer["jobs"][0]
        if job["error"] or not job["read"]["runtime"]:
            raise Unavailable(f"{way}: error {job['error']}")
        return job["read"]["io_bytes"] / job["read"]["runtime"] * 1e3


@contextlib.contextmanager
def huge_pages(bytes_):
    """Reserves huge pages of 2 MiB beyond those in use, and gives them back."""
    before = int(PAGES.read_text()) if PAGES.is_file() else 0
    # Two more: fio asks for room to align.
    wanted = -(-bytes_ // HUGE) + 2
    try:
        PAGES.write_text(str(before + wanted))
    except OSError as error:
        raise Unavailable(f"{PAGES}: {error.strerror}") from None
    try:
        if int(PAGES.read_text()) < before + wanted:
            raise Unavailable(f"{wanted} huge pages are not to be had")
        yield
    finally:
        PAGES.write_text(str(before))
