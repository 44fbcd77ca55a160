"""Spiking neural networks as pure JAX functions: one room a file, each importing only rooms to its left."""
