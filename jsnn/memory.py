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
    page = os.sysconf("SC_PAGE_SIZE")
    try:  # Linux: what is free or can be freed
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        total = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        total = page * os.sysconf("SC_PHYS_PAGES") // 2
    return int(_SHARE * total) // jax.local_device_count()


def gigabytes(count: int) -> str:
    """A number of bytes in words."""
    return f"{count / 1e9:.2f} GB"
