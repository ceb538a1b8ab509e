"""Run a program inside a memory cgroup, and watch what it reads from disks. Linux only; cgroup v1 or v2."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import tempfile
import time

from common import Unavailable

# Seconds between two looks at what a process has read.
LOOK = 0.05


@dataclasses.dataclass
class Run:
    """What is known of a process that has ended well."""

    output: str
    # The most bytes of its own that were in memory at once, and those of its group, page cache included.
    resident: int
    group: int | None
    # (time, bytes read from disks so far), in the order of time.
    reads: list


class Groups:
    """Where memory cgroups can be made, and how this version calls their files."""

    def __init__(self, parent=None):
        found = parent or self.mounted()
        self.parent = pathlib.Path(found)
        if not (self.parent / "cgroup.procs").is_file():
            raise Unavailable(f"--cgroup: {found} is not the folder of a cgroup")
        self.two = (self.parent / "cgroup.controllers").is_file()
        if self.two:
            # A group in which processes live may not hand on memory; the root may, and a group delegated for this.
            with contextlib.suppress(OSError):
                (self.parent / "cgroup.subtree_control").write_text("+memory")
        self.limit, self.peak, self.events = (
            ("memory.max", "memory.peak", "memory.events")
            if self.two
            else ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        )

    @staticmethod
    def mounted():
        for line in pathlib.Path("/proc/mounts").read_text().splitlines():
            _, folder, kind, options, *_ = line.split()
            if kind == "cgroup" and "memory" in options.split(","):
                return folder
            if kind == "cgroup2" and "memory" in (pathlib.Path(folder) / "cgroup.controllers").read_text().split():
                return folder
        raise Unavailable("no cgroup controller for memory is mounted here; --cgroup names a folder of one")

    @contextlib.contextmanager
    def group(self, bytes_):
        """A new group that may use so many bytes of memory, page cache included; its processes end with it."""
        folder = self.parent / f"rheostat-bench-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError as error:
            raise Unavailable(f"{folder}: {error.strerror}; run as root, or give --cgroup FOLDER") from None
        try:
            try:
                (folder / self.limit).write_text(str(bytes_))
            except OSError as error:
                raise Unavailable(f"{folder / self.limit}: {error.strerror}") from None
            # Swap would be memory as well. Where there is none, the files may be missing.
            for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", bytes_)):
                with contextlib.suppress(OSError):
                    if (folder / name).is_file():
                        (folder / name).write_text(str(value))
            yield folder
        finally:
            self.remove(folder)

    def remove(self, folder):
        for _ in range(200):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)
        raise Unavailable(f"{folder}: cannot be removed")

    def killed(self, folder):
        """Whether the kernel has killed a process of the group for want of memory."""
        lines = (folder / self.events).read_text().splitlines()
        return any(line.startswith("oom_kill ") and int(line.split()[1]) for line in lines)


def number(path):
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def bytes_read(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return int(dict(line.split(": ") for line in text.splitlines())["read_bytes"])


def confined(groups, bytes_, command, *, what, timeout, env=None, meanwhile=None):
    """Run a command to its end in a group of its own; `Unavailable` says why it did not end well.

    `meanwhile` is called with the number of the process, again and again while it runs.
    """
    # The shell joins the group before it becomes the program, so that all memory of the program counts.
    program = ["sh", "-c", 'echo $$ > "$0" && exec "$@"']
    with groups.group(bytes_) as folder, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        whole = [*program, str(folder / "cgroup.procs"), *map(str, command)]
        child = subprocess.Popen(whole, stdout=out, stderr=errors, env={**os.environ, **(env or {})})
        try:
            status, usage, reads = watch(child, what, timeout, meanwhile)
        except BaseException:
            child.kill()
            child.wait()
            raise
        for file in (out, errors):
            file.seek(0)
        if groups.killed(folder):
            raise Unavailable(f"{what}: killed, because {bytes_ / 2**30:.2f} GiB of memory were not enough for it")
        if status:
            lines = (errors.read().strip() or out.read().strip()).splitlines()
            raise Unavailable(f"{what}: failed with {status}: {lines[-1] if lines else 'no output'}")
        return Run(out.read(), usage.ru_maxrss * 1024, number(folder / groups.peak), reads)


def watch(child, what, timeout, meanwhile):
    """Exit status, resources used, and the bytes read over time, of a child that this waits for."""
    reads, end = [], time.monotonic() + timeout
    while True:
        # An ended child still says what it has read until it is waited for.
        ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if (read := bytes_read(child.pid)) is not None:
            reads.append((time.monotonic(), read))
        if ended:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage, reads
        if time.monotonic() > end:
            raise Unavailable(f"{what}: not done after {timeout} s (--timeout)")
        if meanwhile:
            meanwhile(child.pid)
        time.sleep(LOOK)


def read_at_the_end(reads, seconds):
    """Bytes read in the last so many seconds of reading; what comes after the last big read does not count."""
    if not reads:
        return None
    last = reads[-1][1]
    slack = max(1 << 20, last // 500)
    end = next(time_ for time_, read in reads if read >= last - slack)
    return at(reads, end) - at(reads, end - seconds)


def at(reads, moment):
    """Bytes read until a moment, as if they came evenly between two looks."""
    if moment <= reads[0][0]:
        return 0
    for (t0, r0), (t1, r1) in zip(reads, reads[1:]):
        if moment <= t1:
            return r0 + (r1 - r0) * (moment - t0) / (t1 - t0)
    return reads[-1][1]
