"""How much memory there is."""

import os

import jax

# Of the memory that is free: the rest is for the compiler, the operating system and what an estimate misses.
_SHARE = 0.7


def free_bytes() -> int:
    """Memory that a program may take on each device."""
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
