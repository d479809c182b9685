"""Finished assets: cleaned, unwrapped and textured meshes as glTF, OBJ and PLY, and pictures of them."""

from threedgen.export.asset import export_asset
from threedgen.export.cleaning import clean_mesh, simplify_mesh
from threedgen.export.exchange import write_obj, write_ply
from threedgen.export.gltf import write_glb
from threedgen.export.texturing import bake_texture, unwrap_mesh
from threedgen.export.turntable import write_turntable

__all__ = [
    "bake_texture",
    "clean_mesh",
    "export_asset",
    "simplify_mesh",
    "unwrap_mesh",
    "write_glb",
    "write_obj",
    "write_ply",
    "write_turntable",
]
