"""What every representation can do, and what a rendering is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from threedgen import ranks
from threedgen.cameras import Cameras
from threedgen.draws import Draws
from threedgen.ops.ray_march import ray_indices

HANDED_OVER = 128  # vertices along an axis of the grid on which a surface is found that one representation hands to another
Forgotten = dict[nn.Parameter, Tensor]  # rows [n] of parameters that stand for something else than before


@dataclass
class Samples:
    """The samples of a volume rendering, packed ray by ray: ray r owns entries offsets[r] to offsets[r+1].

    Attributes:
        offsets: [R+1] int64.
        t: [S] distances along the rays; points: [S,3] in the world.
        weights: [S] share of the ray's colour that a sample gives, with gradient.
        directions: [R,3] unit directions of the rays.
        normals: [S,3] unit normals, or None where they were not asked for.
        slopes: makes gradients [K,3] of a signed distance at some of the samples, or None where the volume is no such distance.
    """

    offsets: Tensor
    t: Tensor
    points: Tensor
    weights: Tensor
    directions: Tensor
    normals: Tensor | None = None
    slopes: Callable[[], Tensor] | None = None

    @property
    def ray(self) -> Tensor:
        """[S] index of the ray of every sample."""
        return ray_indices(self.offsets, len(self.t))

    def parts(self) -> Iterator[Samples]:
        """The samples, all at once."""
        yield self

    def summed(self, measure: Callable[[Samples], Tensor]) -> Tensor:
        """What a measure of samples gives. It must be one that adds up over bundles of rays: see `Chunks`."""
        return measure(self)


@dataclass
class Chunks:
    """The samples of a rendering that was too large to keep them: each chunk of rays is computed anew when it is looked at.

    Attributes:
        makes: one for each chunk of consecutive rays.
        bounded: runs what gives a tuple of tensors so that it keeps no memory for the gradient.
    """

    makes: Sequence[Callable[[], Samples]]
    bounded: Callable[[Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]

    def parts(self) -> Iterator[Samples]:
        """The samples of one chunk after another."""
        for make in self.makes:
            yield make()

    def summed(self, measure: Callable[[Samples], Tensor]) -> Tensor:
        """Sum over the chunks of what a measure gives, a tensor of one shape, with gradient and in the memory of one chunk."""
        return torch.stack([self.bounded(lambda make=make: (measure(make()),))[0] for make in self.makes]).sum(0)


@dataclass
class Blobs:
    """The Gaussians of a rendering, with gradient: scales [N,3] standard deviations along their axes in world units, opacity [N]."""

    scales: Tensor
    opacity: Tensor


@dataclass
class Render:
    """What rays saw, linear range, float. Leading axes: [B,H,W] for images of views, [R] for a bundle of rays.

    Attributes:
        rgb: [...,3] composited over the background, in [0,1].
        alpha: [...,1] coverage in [0,1].
        depth: [...,1] expected distance along the ray times alpha (0 where empty), world units.
        normal: [...,3] unit world normals times alpha, or None where they were not asked for.
        samples: of a volume rendering that regularizers may look at, whole or in chunks, else None.
        surface: the mesh that was drawn, its vertices with gradient, where regularizers may look at it, else None.
        blobs: the Gaussians that were drawn, where regularizers may look at them, else None.
        latent: [...,C] what the prior is to see in place of the encoded colours, where latents themselves are rendered, else None.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor | None = None
    samples: Samples | Chunks | None = None
    surface: Mesh | None = None
    blobs: Blobs | None = None
    latent: Tensor | None = None

    def reshaped(self, shape: tuple[int, ...]) -> Render:
        """The same with the leading axes of another shape."""
        return replace(self, **{name: image.reshape(*shape, -1) for name, image in self.images().items()})

    def gathered(self, rows: int) -> Render:
        """The images of all processes, which have rendered a part of the views or rays each; what regularizers look at stays the own."""
        return replace(self, **{name: ranks.gathered(image, rows) for name, image in self.images().items()})

    def images(self) -> dict[str, Tensor]:
        """What there is of colours, coverage, depth, normals and latents."""
        images = {name: getattr(self, name) for name in ("rgb", "alpha", "depth", "normal", "latent")}
        return {name: image for name, image in images.items() if image is not None}


@dataclass
class Mesh:
    """A triangle mesh in world axes (z up, front +x).

    Attributes:
        vertices: [V,3] float32.
        faces: [F,3] int64, counter-clockwise seen from outside.
        vertex_rgb: [V,3] in [0,1], or None.
        uv: [V,2] texture coordinates in [0,1], origin at the top left of `texture`, or None.
        texture: [H,W,3] base colour in [0,1], or None.
    """

    vertices: Tensor
    faces: Tensor
    vertex_rgb: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None

    def to(self, device: torch.device | str) -> Mesh:
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if v is not None})


def fits(other: nn.Module, module: nn.Module, ignoring: str = "\0") -> bool:
    """Whether the state of one module is of the names and shapes of another's, but for names that begin in a certain way."""
    there, here = (
        {name: value.shape for name, value in each.state_dict().items() if not name.startswith(ignoring)} for each in (other, module)
    )
    return there == here


class Representation(nn.Module):
    """A 3D object that can be optimized through its rendering. It knows nothing of diffusion.

    Attributes:
        noted: names of buffers to which a backward pass adds something of each view: sums over the views of a step.
    """

    noted: ClassVar[tuple[str, ...]] = ()

    @property
    def scenes(self) -> tuple[Representation, ...]:
        """The objects it holds: itself alone, unless it is a collection."""
        return (self,)

    @property
    def casts_rays(self) -> bool:
        """Whether it renders single rays; otherwise whole images only."""
        return type(self).render_rays is not Representation.render_rays

    def render(self, cameras: Cameras, *, draws: Draws | None = None, normals: bool = False) -> Render:
        """Images of all views; with `draws` whatever is random is keyed on them, without nothing is random."""
        raise NotImplementedError

    def render_rays(
        self, origins: Tensor, directions: Tensor, jitter: Tensor, random_rgb: Tensor | None = None, normals: bool = False
    ) -> Render:
        """What R single rays see: origins and unit directions [R,3], jitter [R] in [0,1) of a step."""
        raise NotImplementedError

    def param_groups(self, lr: float, lr_background: float) -> list[dict]:
        """Optimizer groups with their learning rates; the one of the background is named "background"."""
        raise NotImplementedError

    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Upkeep after the optimizer's step: occupancy, densification, unlocking of levels.

        Returns:
            The rows of parameters whose moments the optimizer has to forget.
        """
        raise NotImplementedError

    def start_from(self, other: Representation, threshold: float | str = "auto", seed: int = 0) -> None:
        """Become what another representation shows, for the stage that follows it.

        One of the same kind and size hands over all it holds. Any other hands over its surface and the colours there (`take_shape`).

        Args:
            other: on any device.
            threshold: density of the other's surface (see `to_mesh`).
            seed: of the draws.

        Raises:
            UserError: the other is empty.
        """
        if type(self) is type(other) and fits(other, self, ignoring="background."):
            self.load_state_dict(other.state_dict(), strict=False)
        else:
            mesh = other.to_mesh(HANDED_OVER, threshold)
            self.take_shape(mesh.to("cpu"), other.albedo, torch.Generator().manual_seed(seed))
            self.take_background(other)

    def take_background(self, other: Representation) -> None:
        """What is seen behind the object, where both learn it in the same way."""
        there, here = (getattr(field, "background", nn.Module()) for field in (other, self))
        if type(there) is type(here) and fits(there, here):
            here.load_state_dict(there.state_dict())

    def take_shape(self, mesh: Mesh, albedo: Callable[[Tensor], Tensor], rng: torch.Generator) -> None:
        """Become a closed surface with colours.

        Args:
            mesh: on the CPU, within the unit sphere.
            albedo: colour [N,3] in [0,1] at points [N,3] near the surface.
            rng: of the draws, on the CPU.
        """
        raise NotImplementedError

    def to_mesh(self, resolution: int, threshold: float | str = "auto") -> Mesh:
        """The surface; UserError if there is none."""
        raise NotImplementedError

    def albedo(self, points: Tensor) -> Tensor:
        """Colour [N,3] in [0,1] of the surface at world points [N,3], for texture baking."""
        raise NotImplementedError
