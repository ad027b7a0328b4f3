"""What a run costs and where it ran: time, memory, hardware, commit. Nothing names the machine."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

MIB = 1024 * 1024


def cpu_model() -> str:
    """The processor's model name, as the operating system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model", "Hardware")) and ":" in line:
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float | None:
    """Main memory in GiB, rounded to one place; None where the system does not tell."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(size / 1024**3, 1)


def hardware() -> dict:
    """Describe the machine by its parts, never by its name.

    Returns:
        ``cpu`` (model), ``cores``, ``memory_gib``, ``gpu`` (model or None), ``torch`` (version or
        None) and ``threads``. The GPU is asked only where torch is already imported: a run that
        never imported it cannot have used one.
    """
    torch = sys.modules.get("torch")
    try:
        version = torch.__version__ if torch else importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = None
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    threads = torch.get_num_threads() if torch else int(os.environ.get("OMP_NUM_THREADS") or 0)
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "gpu": gpu,
        "torch": str(version) if version else None,
        "threads": threads or cores(),
    }


def commit(root: str | Path) -> tuple[str, bool]:
    """Return (commit id or "unknown", whether tracked files differ from it) of a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--verify", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


class Cost:
    """Wall time, CPU time and peak memory of the code between entering and leaving.

    ``wall_s`` and ``cpu_s`` (this process and its finished children) are in seconds, ``peak_mib``
    is the highest resident size of this process. On Linux the peak starts anew on entering;
    elsewhere it is the peak since the process began. ``peak_gpu_mib`` is None without CUDA.
    """

    def __enter__(self) -> "Cost":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._wall, self._cpu = time.perf_counter(), self._cpu_now()
        self.wall_s = self.cpu_s = self.peak_mib = 0.0
        self.peak_gpu_mib: float | None = None
        return self

    @staticmethod
    def _cpu_now() -> float:
        return sum(os.times()[:4])

    def __exit__(self, *_) -> None:
        self.wall_s = round(time.perf_counter() - self._wall, 3)
        self.cpu_s = round(self._cpu_now() - self._cpu, 3)
        self.peak_mib = round(peak_rss_mib(), 1)
        torch = sys.modules.get("torch")
        if torch and torch.cuda.is_available():
            self.peak_gpu_mib = round(torch.cuda.max_memory_allocated() / MIB, 1)


def peak_rss_mib() -> float:
    """Highest resident size of this process in MiB, since it began or was reset."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


class TreePeak(threading.Thread):
    """Watch the resident size of a process's descendants until left; ``mib`` is the highest sum.

    Pages that processes share are counted once for each of them.

    Args:
        include_self: count the watched process too (off for a notebook's kernel, which is a
            child of this process).
        pid: the process at the top (default: this one).
        every_s: pause between two looks; a shorter peak may be missed.
    """

    def __init__(self, pid: int | None = None, include_self: bool = False, every_s: float = 0.1):
        super().__init__(daemon=True)
        self.pid, self.include_self, self.every_s = pid, include_self, every_s
        self.mib = 0.0
        self._done = threading.Event()

    def look(self) -> float:
        """Resident size of the tree now, in MiB (0 when it is gone)."""
        import psutil

        total = 0
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(self.pid)
            tree = top.children(recursive=True) + ([top] if self.include_self else [])
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss
        return total / MIB

    def run(self) -> None:
        self.mib = self.look()
        while not self._done.wait(self.every_s):
            self.mib = max(self.mib, self.look())

    def __enter__(self) -> "TreePeak":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self.join()
