"""Differentiable operators with compiled kernels and pure-torch twins behind one interface."""

from threedgen.ops._library import backend, cpu_isa
from threedgen.ops.hash_grid import HashGridSpec, hash_grid
from threedgen.ops.rasterize import rasterize

__all__ = ["HashGridSpec", "backend", "cpu_isa", "hash_grid", "rasterize"]
