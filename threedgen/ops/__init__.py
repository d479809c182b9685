"""Differentiable operators with compiled kernels and pure-torch twins behind one interface."""

from threedgen.ops._library import backend, cpu_isa
from threedgen.ops.adjacency import adjacent_edges
from threedgen.ops.antialias import antialias
from threedgen.ops.barycentric import barycentric
from threedgen.ops.composite import composite
from threedgen.ops.flexicubes import cube_grid, flexicubes
from threedgen.ops.hash_grid import HashGridSpec, hash_grid
from threedgen.ops.interpolate import interpolate
from threedgen.ops.marching_tets import marching_tets, tet_grid
from threedgen.ops.project_gaussians import project_gaussians
from threedgen.ops.rasterize import rasterize
from threedgen.ops.ray_march import march_rays, ray_indices
from threedgen.ops.silhouettes import silhouettes
from threedgen.ops.splat import splat

__all__ = [
    "HashGridSpec",
    "adjacent_edges",
    "antialias",
    "backend",
    "barycentric",
    "composite",
    "cpu_isa",
    "cube_grid",
    "flexicubes",
    "hash_grid",
    "interpolate",
    "march_rays",
    "marching_tets",
    "project_gaussians",
    "rasterize",
    "ray_indices",
    "silhouettes",
    "splat",
    "tet_grid",
]
