"""Differentiable operators with compiled kernels and pure-torch twins behind one interface."""

from threedgen.ops._library import backend, cpu_isa
from threedgen.ops.composite import composite
from threedgen.ops.hash_grid import HashGridSpec, hash_grid
from threedgen.ops.rasterize import rasterize
from threedgen.ops.ray_march import march_rays, ray_indices
from threedgen.ops.splat import splat

__all__ = ["HashGridSpec", "backend", "composite", "cpu_isa", "hash_grid", "march_rays", "rasterize", "ray_indices", "splat"]
