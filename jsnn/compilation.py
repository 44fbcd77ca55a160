"""Compiled programs kept on disk: a run like an earlier one starts in seconds, for XLA need not compile it anew.

`jsnn.fit` and every script call `keep`. What JAX was told before stands: `JAX_COMPILATION_CACHE_DIR` names another folder,
`JAX_ENABLE_COMPILATION_CACHE=0` keeps nothing, as `--no-compilation-cache` does for a script.
"""

import warnings
from typing import Any

import jax

from jsnn import files

_LARGEST = 2 << 30  # bytes of the whole folder: what was used longest ago goes first


def keep() -> None:
    """From now on this process keeps what it compiles, in the folder `compiled` of the user's cache: see `jsnn.files.cache`.

    A shortcut at most: where there is no such folder, or it takes no files, programs are compiled as ever. Results are the same to the bit.
    """
    config: Any = jax.config
    told = config.jax_compilation_cache_dir is not None
    if told or not config.jax_enable_compilation_cache:
        return
    try:
        folder = files.cache() / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # not writable; no home
        return
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent")
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
