"""What a fit to images leaves beside its asset: scores of the test views, a picture of them, the placement of the data."""

from __future__ import annotations

from dataclasses import asdict

import torch

from threedgen.data.posed_images import PosedImages
from threedgen.data.scene import Scene
from threedgen.evaluation.views import score_views, summary
from threedgen.representations.base import Representation
from threedgen.runs.callbacks import write_picture
from threedgen.runs.folder import RunFolder
from threedgen.storage import write_json

PICTURED = 6


def write_scores(representation: Representation, scene: Scene, folder: RunFolder, device: str) -> None:
    """Write metrics.json, placement.json and previews/test.png (test views above what the representation shows)."""
    placement, test = scene.placement, scene.test().to(device)
    scores, shown = score_views(representation, test)
    content = summary(scores) | {"train_images": len(scene.train), "test_images": [asdict(score) for score in scores]}
    write_json(folder.path / "metrics.json", content)
    matrix = placement.data_from_scene().tolist()
    write_json(folder.path / "placement.json", {"center": placement.center.tolist(), "scale": placement.scale, "data_from_scene": matrix})
    write_picture(beside(test, shown), folder.previews / "test.png")


def beside(test: PosedImages, shown: torch.Tensor) -> torch.Tensor:
    """[2H,6W,3] the first views, truth above and rendering below, over white where they have alpha."""
    truth = test[list(range(min(len(test), PICTURED)))].over(1.0).cpu()
    return torch.cat([torch.cat(list(row), 1) for row in (truth, shown[:PICTURED])])
