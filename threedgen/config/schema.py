"""The typed settings of a run: every key a config may hold, with meaning, unit and range. Never imports torch.

Keys that name a variant (`representation.type`, `guidance.type`, `cameras.type`) select one of the registered dataclasses.
Guidance rules declare their settings beside themselves (threedgen/guidance/<rule>.py, torch-free at import).

A settings class may define `check(self) -> None`: it raises ValueError with one line when its values do not go together, and is
called after every value passed its own range.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from threedgen.registry import register
from threedgen.schedule import knots_of

SCHEMA_VERSION = 1
POSED_IMAGES = "posed images"  # what a guidance `needs` that is given by `data`


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    scheduled: bool = False,
    milestones: bool = False,
    length: int = 0,
    ascending: bool = False,
    variant: str = "",
    affects_result: bool = True,
) -> Any:
    """A dataclass field that documents and constrains itself.

    Args:
        default: value, or MISSING where the user must give one; lists and dicts are copied per instance.
        doc: one sentence on what it does.
        unit: of the value, empty for a pure number.
        low, high: inclusive range of numbers (every number of a list, every value of a schedule).
        choices: the allowed words (beside numbers, where the annotation is Any).
        scheduled: a constant or knots `[start_step, start, end, end_step, ...]` (threedgen.schedule).
        milestones: a constant or a mapping `{from_step: value}`.
        length: how many entries a list must have; 0 is any number.
        ascending: whether the entries of a list must not decrease.
        variant: the registered kind that a group's `type` key selects from.
        affects_result: False for what changes where or how a run computes, but not its outcome; such keys leave the
            name of the run folder alone.
    """
    metadata = {
        "doc": doc,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": choices,
        "scheduled": scheduled,
        "milestones": milestones,
        "length": length,
        "ascending": ascending,
        "variant": variant,
        "affects_result": affects_result,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


BACKGROUNDS: tuple[str, ...] = ("white", "grey", "black", "learned", "textured", "neural", "random")
LEARNED_BACKGROUNDS: tuple[str, ...] = ("learned", "textured", "neural")
INTERVAL: dict[str, Any] = {"length": 2, "ascending": True}


@register("cameras", "orbit")
@dataclass
class OrbitSettings:
    """Cameras on an orbit around the origin: N views of one object a step, azimuths stratified over the circle."""

    views: int = setting(4, "views of one object in a step; their azimuths are 360/views degrees apart", low=1, high=64)
    elevation: list[float] = setting(
        [0.0, 45.0], "range of the elevation, one draw a step", unit="degrees", low=-89.0, high=89.0, **INTERVAL
    )
    azimuth: list[float] = setting(
        [0.0, 360.0], "range of the azimuth, stratified over the views", unit="degrees", low=-360.0, high=360.0, **INTERVAL
    )
    distance: list[float] = setting(
        [2.6, 2.6], "range of the distance from the origin, one draw a step", unit="scene radii", low=0.1, high=100.0, **INTERVAL
    )
    fovy: list[float] = setting(
        [40.0, 40.0], "range of the vertical field of view, one draw a step", unit="degrees", low=1.0, high=150.0, **INTERVAL
    )
    resolution: Any = setting(
        64, "height and width of a rendered view; milestones {from_step: pixels} allowed", unit="pixels", low=8, high=4096, milestones=True
    )
    strata: int = setting(
        0,
        "cells of the azimuth offset: every so many draws visit each cell once, in a fresh order (RS2, arXiv 2305.18424); 0 draws freely",
        low=0,
        high=360,
    )
    strata_elevation: int = setting(1, "cells of the elevation; needs strata, and every pair of cells is visited once", low=1, high=180)

    def check(self) -> None:
        """Cells of the elevation go with cells of the azimuth."""
        if self.strata_elevation > 1 and not self.strata:
            raise ValueError("strata_elevation needs strata: set strata to the cells of the azimuth, 1 for elevation alone")


@dataclass
class HashEncodingSettings:
    """A multiresolution hash grid with one hidden layer behind it (Instant-NGP, arXiv 2201.05989)."""

    levels: int = setting(12, "resolution levels of the hash grid", low=1, high=32)
    features: int = setting(2, "features a level", low=1, high=8)
    log2_table: int = setting(15, "log2 of the rows of a level's table", low=8, high=24)
    base_resolution: int = setting(8, "resolution of the coarsest level", unit="cells", low=2, high=512)
    max_resolution: int = setting(256, "resolution of the finest level", unit="cells", low=2, high=8192)
    hidden: int = setting(32, "width of the one hidden layer", low=4, high=256)

    def check(self) -> None:
        """The finest level is not coarser than the coarsest."""
        if self.max_resolution < self.base_resolution:
            raise ValueError(f"max_resolution ({self.max_resolution}) must not be below base_resolution ({self.base_resolution})")


@dataclass
class VolumeSettings(HashEncodingSettings):
    """A field that is rendered by samples along rays, through an occupancy grid."""

    kind: ClassVar[str] = "volume"

    radius: float = setting(1.0, "half side of the cube that holds the field", unit="scene radii", low=0.1, high=100.0)
    occupancy_resolution: int = setting(64, "cells of the occupancy grid along an axis", unit="cells", low=8, high=256)
    samples: int = setting(96, "samples along a ray that crosses the whole cube", low=8, high=4096)
    network_share: float = setting(1.0, "learning rate of the network behind the hash grid, as a share of the grid's", low=0.0, high=100.0)
    band_every: int = setting(
        0, "steps after which the next finer level of the hash grid comes into use; 0 uses all from the start", unit="steps", low=0
    )
    band_start: int = setting(4, "levels in use at the start, where band_every is not 0", low=1, high=32)
    background: str = setting("white", "what is seen behind the object", choices=BACKGROUNDS)


@register("representation", "hashgrid")
@dataclass
class HashGridSettings(VolumeSettings):
    """Neural radiance field on a multiresolution hash grid with an occupancy grid (NeRF of Instant-NGP, arXiv 2201.05989)."""

    blob_density: float = setting(10.0, "height of the density blob the field starts from", low=0.0, high=1000.0)
    blob_radius: float = setting(0.5, "radius at which the density blob ends", unit="scene radii", low=0.01, high=10.0)
    normals: str = setting(
        "analytic", "how normals are computed: gradient of the density, or central differences", choices=("analytic", "finite_difference")
    )


@register("representation", "latent_nerf")
@dataclass
class LatentFieldSettings(HashGridSettings):
    """A volume of the prior's latents, taught without its encoder (Latent-NeRF, arXiv 2211.07600).

    Where it shows latents, cameras.resolution is the side of the prior's latents: 64 for Stable Diffusion at 512 pixels. Its colours are
    an affine map of the latents, which begins as the one that the prior's own decoder is nearest to.
    """

    channels: int = setting(4, "channels of the prior's latents", low=1, high=64)
    shows: str = setting(
        "latent",
        "what the prior sees: the latents themselves, or colours that a layer behind them makes, which is trained along",
        choices=("latent", "rgb"),
    )
    refinement: int = setting(
        0,
        "width of a residual network on the rendered latents, for what the encoder does that depends on neighbours (ED-NeRF); trained "
        "along, and only the prior sees what it does; 0 is none",
        low=0,
        high=512,
    )
    background: str = setting("learned", "what is seen behind the object: latents that are learned", choices=LEARNED_BACKGROUNDS)


@register("representation", "gaussians")
@dataclass
class GaussiansSettings:
    """3D Gaussians with opacity and colour, drawn by splatting (3D Gaussian Splatting, arXiv 2308.04079).

    Learning rates of positions, sizes, opacities and colours are fixed shares of the optimizer's.
    """

    kind: ClassVar[str] = "cloud"  # its renderings carry the Gaussians
    parts_apart: ClassVar[bool] = True

    count: int = setting(3000, "Gaussians at the start", low=4, high=10_000_000)
    capacity: int = setting(6000, "most Gaussians there may ever be", low=4, high=10_000_000)
    start: str = setting(
        "sphere",
        "where they begin: sphere (a ball), hull (on the space that all silhouettes of `data` have in common), or a file with a mesh (its "
        "surface) or with points (a PLY point cloud)",
        unit="path",
    )
    start_radius: float = setting(
        0.5, "radius of the ball, or of the sphere a mesh is fitted into", unit="scene radii", low=0.01, high=100.0
    )
    opacity: float = setting(0.1, "opacity at the start", low=0.01, high=0.99)
    sh_degree: int = setting(0, "degree of the spherical harmonics of the colour; 0 looks the same from everywhere", low=0, high=3)
    sh_every: int = setting(0, "steps after which the next degree comes into use; 0 uses all from the start", unit="steps", low=0)
    antialiased: bool = setting(True, "fade what is smaller than a pixel: the same look at every resolution (Mip-Splatting)")
    background: str = setting("white", "what is seen behind the object", choices=BACKGROUNDS)
    strategy: str = setting(
        "none",
        "how Gaussians multiply: none, adc (copied and cut where the image pulls hard, 3DGS), or mcmc (dead ones join others, 3DGS-MCMC)",
        choices=("none", "adc", "mcmc"),
    )
    densify_from: int = setting(100, "first step of the strategy", unit="steps", low=0)
    densify_until: int = setting(1_000_000, "last step of the strategy", unit="steps", low=0)
    densify_every: int = setting(100, "steps between its turns", unit="steps", low=1)
    grad_threshold: float = setting(
        0.0002, "adc: mean gradient to the projected centre, in halves of the image, above which a Gaussian multiplies", low=0.0
    )
    split_size: float = setting(0.01, "adc: standard deviation above which it is cut and not copied", unit="scene radii", low=0.0)
    noise: Any = setting(
        80.0,
        "mcmc: random walk of nearly invisible Gaussians in every step, as a factor on their covariance. The paper "
        "has its learning rate of positions times 500000: 80, falling to 0.8 as the rate does; 0 is none",
        unit="1 / scene radii",
        low=0.0,
        scheduled=True,
    )
    prune_opacity: float = setting(0.005, "adc: opacity below which it goes", low=0.0, high=0.4)
    reset_every: int = setting(0, "adc: steps between resets of the opacities to nearly nothing; 0 never", unit="steps", low=0)

    def check(self) -> None:
        """There is a place for every Gaussian of the start."""
        if self.capacity < self.count:
            raise ValueError(f"capacity ({self.capacity}) must not be below count ({self.count})")


def starts_on_hull(representation: object) -> bool:
    """Whether settings of a representation let it start from the visual hull of posed images."""
    return "hull" in (getattr(representation, "shape", ""), getattr(representation, "start", ""))


CAST_RAYS = ("volume", "sdf")  # kinds of representations that render single rays
# Penalties that look at more than images: the kinds of representation that have it, and what it is.
PENALTIES_OF_A_KIND = dict.fromkeys(("distortion", "orientation", "z_variance", "entropy"), (CAST_RAYS, "samples along rays"))
PENALTIES_OF_A_KIND |= {"eikonal": (("sdf",), "the gradient of a signed distance")}
PENALTIES_OF_A_KIND |= dict.fromkeys(("normal_consistency", "laplacian"), (("surface",), "the faces of a mesh"))
PENALTIES_OF_A_KIND |= dict.fromkeys(("opacity", "size", "anisotropy"), (("cloud",), "Gaussians"))


@dataclass
class ShapeSettings:
    """The shape that a surface starts from."""

    shape: str = setting(
        "sphere",
        "what it is at first; hull is the space that all silhouettes of `data` have in common",
        choices=("sphere", "ellipsoid", "mesh", "hull"),
    )
    shape_radius: float = setting(
        0.5,
        "radius of the sphere; of the ellipsoid before its axes; that a mesh is scaled to reach",
        unit="scene radii",
        low=0.01,
        high=100.0,
    )
    shape_axes: list[float] = setting(
        [1.0, 1.0, 1.0], "semi-axes of the ellipsoid along x, y, z, times shape_radius", low=0.05, high=20.0, length=3
    )
    shape_file: str = setting("", "mesh file (GLB, OBJ, PLY) of the shape mesh; what it encloses is solid", unit="path")

    def check_shape(self, radius: float) -> None:
        """ValueError where the shape does not fit into the radius, or lacks what it needs."""
        if (self.shape == "mesh") != bool(self.shape_file):
            raise ValueError(f"shape_file goes with shape: mesh, got shape: {self.shape} and shape_file: '{self.shape_file}'")
        if self.shape != "ellipsoid" and self.shape_axes != [1.0, 1.0, 1.0]:
            raise ValueError(f"shape_axes goes with shape: ellipsoid, got shape: {self.shape}")
        if self.shape_radius * max(self.shape_axes) >= radius:
            raise ValueError(f"the shape reaches {self.shape_radius * max(self.shape_axes):g}, beyond the radius {radius:g} of the cube")


@register("representation", "sdf")
@dataclass
class SDFSettings(ShapeSettings, VolumeSettings):
    """Signed distances on a multiresolution hash grid, rendered as a volume (NeuS, arXiv 2106.10689; VolSDF, arXiv 2106.12052).

    It needs regularizers.eikonal: about 0.1 in a fit to images.
    """

    kind: ClassVar[str] = "sdf"  # a volume, whose samples have gradients of a distance as well

    density: str = setting(
        "neus", "from distance to opacity: neus (surfaces lie where weights are largest) or volsdf", choices=("neus", "volsdf")
    )
    sharpness: float = setting(
        30.0, "inverse width of the surface at the start; it is learned", unit="1 / scene radius", low=1.0, high=10_000.0
    )
    samples: int = setting(192, "samples along a ray that crosses the whole cube", low=8, high=4096)

    def check(self) -> None:
        """The shape fits into the sphere and has what it needs."""
        super().check()
        self.check_shape(self.radius)


@dataclass
class SurfaceSettings(ShapeSettings, HashEncodingSettings):
    """A surface that is drawn as a mesh, coloured by a hash grid."""

    kind: ClassVar[str] = "surface"  # its renderings carry the mesh
    parts_apart: ClassVar[bool] = True

    radius: float = setting(1.0, "half side of the cube that holds the surface", unit="scene radii", low=0.1, high=100.0)
    shape_share: float = setting(1.0, "learning rate of the shape, as a share of that of the colours", low=0.0, high=100.0)
    normals: str = setting("vertex", "normals of the faces, or smooth ones, means at the vertices", choices=("vertex", "face"))
    shading: str = setting(
        "albedo",
        "what is shown: the colour alone; lit from the camera, so that shape shows; or the normals in place of colours (0.5 + 0.5 n)",
        choices=("albedo", "lambert", "normal"),
    )
    background: str = setting("white", "what is seen behind the object", choices=BACKGROUNDS)

    def check(self) -> None:
        """The shape fits into the grid and has what it needs."""
        super().check()
        self.check_shape(self.radius)


@register("representation", "dmtet")
@dataclass
class DMTetSettings(SurfaceSettings):
    """A surface from signed distances on a deformable tetrahedral grid (DMTet, arXiv 2111.04276), coloured by a hash grid."""

    resolution: int = setting(48, "cells of the tetrahedral grid along an axis", unit="cells", low=4, high=256)


@register("representation", "flexicubes")
@dataclass
class FlexiCubesSettings(SurfaceSettings):
    """A surface from signed distances on a deformable grid of weighted cubes (FlexiCubes, arXiv 2308.05371), coloured by a hash grid."""

    resolution: int = setting(48, "cubes of the grid along an axis", unit="cells", low=4, high=256)


@register("representation", "mesh")
@dataclass
class MeshSettings(SurfaceSettings):
    """A triangle mesh whose vertices move, remeshed as it goes (continuous remeshing, Palfinger 2022), coloured by a hash grid."""

    resolution: int = setting(64, "cells along an axis of the grid that the first mesh is made on", unit="cells", low=4, high=256)
    capacity: int = setting(10_000, "most vertices there may ever be; there are twice as many triangles", low=16, high=2_000_000)
    edge: Any = setting(
        0.04, "length of the edges; where the surface rests they become shorter", unit="scene radii", low=1e-4, scheduled=True
    )
    spread: int = setting(
        8,
        "sweeps that spread the gradients over the neighbours of a vertex, so that parts of the surface move and not single vertices",
        low=0,
        high=1000,
    )
    edge_range: list[float] = setting([0.5, 1.5], "shortest and longest edge, as shares of edge", low=0.05, high=20.0, **INTERVAL)
    remesh_every: int = setting(5, "steps between turns of remeshing; 0 keeps the first mesh", unit="steps", low=0)
    remesh_until: int = setting(1_000_000, "last step that remeshes", unit="steps", low=0)
    gain: float = setting(
        0.2,
        "how fast edges become longer where the surface moves steadily and shorter where it rests; 0 leaves them alone",
        low=0.0,
        high=5.0,
    )


@dataclass
class RegularizerSettings:
    """Weights of penalties on the rendering; 0 switches a penalty off (and saves its cost)."""

    sparsity: Any = setting(0.0, "mean of sqrt(alpha^2 + 0.01): less matter", low=0.0, scheduled=True)
    opaque: Any = setting(0.0, "binary entropy of alpha: either opaque or empty", low=0.0, scheduled=True)
    distortion: Any = setting(0.0, "spread of the weights along a ray (mip-NeRF 360): compact surfaces", low=0.0, scheduled=True)
    orientation: Any = setting(0.0, "normals that face away from the camera (Ref-NeRF)", low=0.0, scheduled=True)
    z_variance: Any = setting(0.0, "variance of the depth along opaque rays (HiFA): thin surfaces", low=0.0, scheduled=True)
    entropy: Any = setting(0.0, "entropy of the weights along opaque rays (HiFA's z-entropy): few samples", low=0.0, scheduled=True)
    eikonal: Any = setting(0.0, "(|gradient| - 1)^2 of a signed distance at the samples: distances are distances", low=0.0, scheduled=True)
    normal_consistency: Any = setting(0.0, "1 - cosine between neighbouring faces of a mesh: smooth surfaces", low=0.0, scheduled=True)
    laplacian: Any = setting(
        0.0, "distance of a mesh's vertices from the means of their neighbours: even surfaces", low=0.0, scheduled=True
    )
    opacity: Any = setting(0.0, "mean opacity of Gaussians: those not needed die and move (3DGS-MCMC has 0.01)", low=0.0, scheduled=True)
    size: Any = setting(
        0.0, "mean standard deviation of Gaussians in scene radii: no large ones (3DGS-MCMC has 0.01)", low=0.0, scheduled=True
    )
    anisotropy: Any = setting(
        0.0, "mean excess of a Gaussian's longest axis over 3 times its shortest (PhysGaussian): no needles", low=0.0, scheduled=True
    )


@dataclass
class OptimizerSettings:
    """Adam."""

    lr: Any = setting(0.01, "learning rate of the representation", low=0.0, high=10.0, scheduled=True)
    lr_background: Any = setting(0.001, "learning rate of a learned background", low=0.0, high=10.0, scheduled=True)
    betas: list[float] = setting([0.9, 0.99], "Adam's decay rates", low=0.0, high=0.999999, length=2)
    eps: float = setting(1e-15, "Adam's epsilon", low=0.0)


PARTS: tuple[str, ...] = ("geometry", "appearance")  # of a representation that can be trained apart


@dataclass
class StageSettings:
    """One stage of a run; those after the first begin with what the stage before has made.

    What a later stage leaves unsaid of its representation and its cameras stays as it is in the stage before, as long as their types do.
    """

    representation: Any = setting(MISSING, "what is optimized (variant by `type`)", variant="representation")
    guidance: Any = setting(MISSING, "how the prior teaches it (variant by `type`)", variant="guidance")
    cameras: Any = setting(MISSING, "from where it is seen (variant by `type`)", variant="cameras")
    train: str = setting("all", "what is optimized: all, or the shape or the colours alone", choices=("all", *PARTS))
    threshold: Any = setting(
        "auto",
        "density of the surface that this stage takes over, where its representation is another than that of the stage before; or auto",
        low=1e-6,
        choices=("auto",),
    )
    regularizers: RegularizerSettings = field(default_factory=RegularizerSettings, metadata={"doc": "penalties on the rendering"})
    optimizer: OptimizerSettings = field(
        default_factory=OptimizerSettings, metadata={"doc": "Adam, over all parameters of the representation"}
    )
    steps: int = setting(1000, "optimization steps", low=1, high=10_000_000)

    def check(self) -> None:
        """Penalties look at what the representation has, and so does `train`; the guidance fits the views and steps there are."""
        if self.train != "all" and not getattr(self.representation, "parts_apart", False):
            raise ValueError(f"train: {self.train} needs shape and colours that lie apart, as those of dmtet: leave it at all")
        for name, (kinds, looks_at) in PENALTIES_OF_A_KIND.items():
            on = any(weight > 0 for _, weight in knots_of(getattr(self.regularizers, name)))
            if on and getattr(self.representation, "kind", "") not in kinds:
                raise ValueError(f"regularizers.{name} looks at {looks_at}, which this representation has not: leave it at 0")
        if starts_on_hull(self.representation) and POSED_IMAGES not in getattr(self.guidance, "needs", ()):
            raise ValueError("a hull to start from is carved from posed images, and this guidance has none: choose another start")
        if isinstance(self.representation, LatentFieldSettings):
            self._check_latents(self.representation)
        if hasattr(self.guidance, "check_stage"):
            self.guidance.check_stage(self.cameras.views, self.steps)

    def _check_latents(self, representation: LatentFieldSettings) -> None:
        """The latents are a prior's; those that are rendered go to a rule that needs no picture of them."""
        if POSED_IMAGES in getattr(self.guidance, "needs", ()):
            raise ValueError("latent_nerf holds the latents of a prior, and this guidance has none: choose hashgrid")
        if representation.shows == "latent":
            if not hasattr(self.guidance, "check_latents"):
                raise ValueError("this guidance makes pictures, and latent_nerf shows latents: set representation.shows to rgb")
            self.guidance.check_latents()


@dataclass
class ExportSettings:
    """The asset that is written at the end."""

    formats: list[str] = setting(["glb"], "files to write", choices=("glb", "obj", "ply"))
    resolution: int = setting(128, "cells of the marching-cubes grid along an axis", unit="cells", low=16, high=1024)
    threshold: Any = setting("auto", "density of the surface, or auto", low=1e-6, choices=("auto",))
    faces: int = setting(10_000, "triangles after simplification", low=100, high=10_000_000)
    texture: int = setting(1024, "side of the texture, a power of two", unit="pixels", low=64, high=8192)
    size_m: float = setting(1.0, "length of the longest side of the exported object", unit="metres", low=1e-4, high=1e4)
    turntable_frames: int = setting(36, "frames of the turntable; 0 writes none", low=0, high=720)
    turntable_resolution: int = setting(256, "height and width of the turntable", unit="pixels", low=32, high=2048)

    def check(self) -> None:
        """Something is written, each format once; texture sides are powers of two, which every viewer can mip-map."""
        if not self.formats or len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats must name at least one format, each once, got {self.formats}")
        if self.texture & (self.texture - 1):
            raise ValueError(f"texture must be a power of two (512, 1024, 2048, ...), got {self.texture}")


VIEWS: tuple[str, ...] = ("front", "side", "back", "overhead")


@dataclass
class ViewDropSettings:
    """Words or phrases that a view's prompt does without, whole words of any case; an overhead view too is a view of its own."""

    front: list[str] = setting([], "left out of the prompt of a view from the front")
    side: list[str] = setting([], "left out of the prompt of a view from a side")
    back: list[str] = setting([], "left out of the prompt of a view from behind, for example [face, smiling]")
    overhead: list[str] = setting([], "left out of the prompt of a view from above")


@dataclass
class PromptSettings:
    """How the prompt depends on the view. Azimuth 0 is the front; what a rule calls its plain prompt never depends on the view."""

    view_dependent: str = setting(
        "none",
        "the prompt of a view: as it is (right for a prior that is told the camera, as the embedded one, which knows no view words), "
        "with the words of its view (DreamFusion), or with embeddings interpolated between those of the views (Perp-Neg)",
        choices=("none", "words", "interpolated"),
    )
    view_words: list[str] = setting(
        [", front view", ", side view", ", back view", ", overhead view"],
        "what is put behind the prompt, as it stands, for a view from the front, a side, behind, above",
        length=len(VIEWS),
    )
    front_degrees: float = setting(45.0, "azimuths nearer than this to the front are front views", unit="degrees", low=0.0, high=180.0)
    back_degrees: float = setting(45.0, "azimuths nearer than this to the back are back views", unit="degrees", low=0.0, high=180.0)
    overhead_degrees: float = setting(60.0, "elevations above this are overhead views", unit="degrees", low=0.0, high=90.0)
    negative_views: str = setting(
        "none",
        "the negative prompt of a view: as it is, or with the words of the other views; Perp-Neg has negative prompts of its own",
        choices=("none", "words"),
    )
    view_drop: ViewDropSettings = field(
        default_factory=ViewDropSettings, metadata={"doc": "words of the prompt that contradict a view (prompts with view words only)"}
    )
    debias: str = setting(
        "none",
        "words that contradict a view, found beside those of view_drop: none, or those whose absence makes the pooled embedding of the "
        "prompt agree more with the words of the view than with those of the others. A variant of prompt debiasing (arXiv 2303.15413), "
        "which asks a masked language model. It may drop the object itself, and a text encoder that never saw view words (the embedded "
        "prior's) judges by chance; view_drop is the reliable way",
        choices=("none", "embedding"),
    )
    debias_threshold: float = setting(0.1, "gain of agreement (a difference of cosines) above which debias drops a word", low=0.0, high=4.0)

    def check(self) -> None:
        """No azimuth is both front and back; words to leave out are words."""
        if self.front_degrees + self.back_degrees > 180:
            raise ValueError(
                f"front_degrees and back_degrees must not exceed 180 together, got {self.front_degrees} and {self.back_degrees}"
            )
        empty = [view for view in VIEWS if any(not word.strip() for word in getattr(self.view_drop, view))]
        if empty:
            raise ValueError(f"view_drop.{empty[0]} holds an empty word: write [] where nothing is left out")

    def differ_by_view(self) -> bool:
        """Whether words are left out of the prompt of some views."""
        return self.debias != "none" or any(getattr(self.view_drop, view) for view in VIEWS)


@dataclass
class RunSettings:
    """A whole run."""

    prompt: str = setting(MISSING, "what to make, taken as raw text; where the guidance is images it only names the asset")
    negative_prompt: str = setting("", "what to stay away from, taken as raw text")
    prior: str = setting("embedded", "frozen diffusion model: embedded | analytic | an alias | a diffusers folder")
    data: str = setting(
        "",
        "folder of posed images to fit, where the guidance is images: transforms_train.json and its like (NeRF-synthetic), or "
        "transforms.json (nerfstudio)",
        unit="path",
    )
    profile: str = setting(
        "",
        "numbers for another machine that come with the config: said on the command line, they lie between the config and the other words "
        "there (cpu: for the embedded prior on a few cores)",
        affects_result=False,
    )
    seed: int = setting(0, "all random draws derive from it", low=0, high=2**63 - 1)
    output: str = setting("outputs", "folder that holds the runs", unit="path", affects_result=False)
    device: str = setting(
        "auto", "where to compute: auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"), affects_result=False
    )
    devices: int = setting(
        1,
        "GPUs, or processes on the CPU, that share the views or rays of every step; the result is that of one, but for rounding",
        low=1,
        high=64,
        affects_result=False,
    )
    threads: int = setting(
        0,
        "CPU threads of a process; 0 takes all cores; only the same number of threads gives the same bytes again",
        low=0,
        high=1024,
        affects_result=False,
    )
    preview_every: int = setting(100, "steps between preview images; 0 writes none", unit="steps", low=0, affects_result=False)
    x0_preview_every: int = setting(
        0,
        "steps between pictures of what the prior takes the renderings for, at several noise levels; 0 writes none",
        unit="steps",
        low=0,
        affects_result=False,
    )
    checkpoint_every: int = setting(200, "steps between checkpoints; 0 keeps only the last", unit="steps", low=0, affects_result=False)
    prompts: PromptSettings = field(default_factory=PromptSettings, metadata={"doc": "how the prompt depends on the view"})
    stages: dict[str, StageSettings] = field(default_factory=dict, metadata={"doc": "named stages, one after the other"})
    export: ExportSettings = field(default_factory=ExportSettings, metadata={"doc": "the asset written at the end"})
    schema_version: int = setting(SCHEMA_VERSION, "version of the config format", low=SCHEMA_VERSION, high=SCHEMA_VERSION)

    def check(self) -> None:
        """Words are left out of prompts only where prompts depend on the view; nothing is given that nobody hears."""
        guidances = {name: stage.guidance for name, stage in self.stages.items()}
        names = " and ".join(guidances)
        if self.x0_preview_every and all(POSED_IMAGES in getattr(guidance, "needs", ()) for guidance in guidances.values()):
            raise ValueError(f"x0_preview_every shows what a prior estimates, and stages.{names} has none: leave it at 0")
        if self.negative_prompt and not any(getattr(guidance, "hears_negative", lambda: True)() for guidance in guidances.values()):
            raise ValueError(f"negative_prompt plays no part in the guidance of stages.{names}, as it is set: leave it empty")
        self._check_particles()
        self._check_devices()
        negatives = any(getattr(guidance, "perp_neg", 0) != 0 for guidance in guidances.values())
        if self.prompts.differ_by_view() and self.prompts.view_dependent == "none" and not negatives:
            raise ValueError("prompts.debias and prompts.view_drop do nothing while prompts.view_dependent is none")

    def _check_devices(self) -> None:
        """The views or rays of a step can be divided among the devices."""
        for name, stage in self.stages.items() if self.devices > 1 else ():
            fits, rays = POSED_IMAGES in getattr(stage.guidance, "needs", ()), getattr(stage.guidance, "rays", 0)
            casts = getattr(stage.representation, "kind", "") in CAST_RAYS
            if rays and not casts and not fits:
                raise ValueError(
                    f"stages.{name} fits a few whole images a step, which cannot be divided among {self.devices} devices: set devices=1"
                )
            if getattr(stage.guidance, "critic", False):
                raise ValueError(f"stages.{name} trains a critic, which is done on one device alone: set devices=1")
            if getattr(stage.representation, "kind", "") == "surface":
                # Two processes had another surface than one after tens of steps, by more than rounding explains.
                raise ValueError(f"stages.{name} draws a surface, which is done on one device alone: set devices=1")
            key, parts = ("guidance", stage.guidance.views) if fits else ("cameras", stage.cameras.views)
            if parts % self.devices and not (fits and rays and casts):
                raise ValueError(f"stages.{name}.{key}.views ({parts}) must be a multiple of devices ({self.devices})")

    def _check_particles(self) -> None:
        """A stage goes on with the particles of the one before, or makes several of one."""
        counts = {name: getattr(stage.guidance, "particles", 1) for name, stage in self.stages.items()}
        for (before, some), (after, others) in pairwise(counts.items()):
            if some not in (1, others):
                raise ValueError(f"stages.{after} has {others} particles, but stages.{before} hands over {some}: give both the same number")
