"""A folder of posed images as a scene to fit: train images in the unit sphere, test images checked and read when they are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from threedgen.data.frames import Frame
from threedgen.data.pixels import read_rgba
from threedgen.data.placement import Placement, place
from threedgen.data.posed_images import PosedImages, read_images
from threedgen.data.splits import read_splits
from threedgen.errors import UserError
from threedgen.guidance.images import Images
from threedgen.schedule import knots_of


@dataclass(frozen=True)
class Scene:
    """Train images in the scene, how the data lies in it, and the frames of the test, which have no mask, depth or normals."""

    train: PosedImages
    placement: Placement
    test_frames: list[Frame]
    downscale: int

    def test(self) -> PosedImages:
        """The test images in the scene, read now: they would double the memory of the fit."""
        return self.placement.images(read_images(self.test_frames, self.downscale))


def read_scene(folder: str, settings: Images) -> Scene:
    """Read and check a folder of posed images; every file is decoded once, so that nothing is found damaged after the fit.

    Args:
        folder: NeRF-synthetic or nerfstudio (see `read_splits`).
        settings: split, size, centre and scale.

    Raises:
        UserError: what is wrong with the data, by file.
    """
    splits = read_splits(Path(folder).expanduser(), settings.hold_out)
    test = [replace(frame, mask=None, depth=None, normal=None) for frame in splits.test]
    for frame in test:
        read_rgba(frame)
    wanted = any(weight > 0 for _, weight in knots_of(settings.normal))
    train = splits.train if wanted else [replace(frame, normal=None) for frame in splits.train]
    if wanted and not any(frame.normal for frame in train):
        raise UserError(f"guidance.normal has a weight, but no frame of '{folder}' has a normal_file_path: add normal maps, or set it to 0")
    images = read_images(train, settings.downscale, settings.depth_unit)
    placement = place(images, settings.center, settings.scale)
    return Scene(placement.images(images), placement, test, settings.downscale)
