"""What exists for speed: each function here equals a plain one of `jax.lax` or a `lax.scan`, and is tested against it."""
