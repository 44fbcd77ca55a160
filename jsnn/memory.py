"""How much memory there is, and how a process keeps it."""

import contextlib
import os
import sys

# Of the memory that is free: the rest is for the compiler, the operating system and what an estimate misses.
_SHARE = 0.7
# One heap for all threads, for those of single threads hold 64 MiB at most; blocks up to 1 GiB are kept; pages of 2 MiB.
TUNABLES = "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.hugetlb=1"


def free_bytes() -> int:
    """Memory that a program may take on each device."""
    import jax  # not before `restart`

    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    return int(_SHARE * _available()) // jax.local_device_count()


def _available() -> int:
    """Bytes of main memory that are free, or can be freed."""
    try:  # Linux
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def host_bytes() -> int:
    """Memory that arrays of this process may take beside the devices'."""
    return int(_SHARE * _available())


def gigabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.2f} GB"


def restart() -> None:
    """Starts this process again, as it was started, with a C library that keeps freed memory for the next step, in large pages.

    Each run of a program takes its working memory anew. What was handed back to the system comes again page by page, each filled with zeros: a
    tenth to a fifth of the CPU time of a training step. glibc reads these settings when a process starts, and not later. So a program of your
    own is started with them: `GLIBC_TUNABLES=... python program.py`, the text being `jsnn.memory.TUNABLES`.

    Does nothing where there is no glibc, if `GLIBC_TUNABLES` is set already, or if NumPy has been imported: the process is at work then.
    """
    if "GLIBC_TUNABLES" in os.environ or "numpy" in sys.modules or not _glibc():
        return
    os.environ["GLIBC_TUNABLES"] = TUNABLES
    with contextlib.suppress(OSError):  # then as it is
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _glibc() -> bool:
    try:
        return str(os.confstr("CS_GNU_LIBC_VERSION")).startswith("glibc")
    except (OSError, ValueError):  # another C library
        return False
