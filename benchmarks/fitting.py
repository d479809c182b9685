"""How well is a known object fitted from its pictures?

    python benchmarks/fitting.py MODEL.glb [MODEL.glb ...] [--representations dmtet,mesh] [--views 64] [--size 128] [key=value ...]
    python benchmarks/fitting.py MODEL.glb [MODEL.glb ...] --config isomer --views 4 --ring

Renders each model all around with threedgen's own rasterizer, as a NeRF-synthetic folder of RGBA images with as many train views and 16
test views in between, and runs configs/fit.yaml on it, with each representation. Normal maps lie beside the train views. Prints one table
and writes benchmarks/results/fitting.json; with --keep FOLDER the folders of the runs stay there.

The F-score is that of the exported GLB, put back where the pictures have the model, at 1 % of the longest side of the model's bounding box.
Models of asset packs have inner walls and holes, so of both surfaces only what is visible from 96 views of the pictures' zone is compared.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, orbit, orbit_cameras  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.evaluation.shapes import Likeness, likeness, longest_side  # noqa: E402
from threedgen.evaluation.visible import visible_points  # noqa: E402
from threedgen.export.gltf import read_scene_from_asset  # noqa: E402
from threedgen.registry import name_of  # noqa: E402
from threedgen.representations.base import Mesh  # noqa: E402
from threedgen.representations.mesh import load_mesh, render_mesh  # noqa: E402
from threedgen.runs.folder import processor_name  # noqa: E402
from threedgen.runs.run import execute  # noqa: E402

TEST_VIEWS = 16
DISTANCE, FOVY, RADIUS = 2.6, 40.0, 0.85
ELEVATIONS = (-15.0, 65.0)
GOLDEN_DEGREES = 180.0 * (3.0 - math.sqrt(5.0))
JUDGES, JUDGED_PIXELS, JUDGED_POINTS, NEAR = 96, 512, 100_000, 0.01
RESULTS = ROOT / "benchmarks" / "results" / "fitting.json"


@dataclass(frozen=True)
class Fit:
    """Scores of the test views and of the mesh of a run, and its seconds from reading to export, on the clock and of the processor."""

    model: str
    representation: str
    psnr_foreground: float
    psnr: float
    ssim: float
    f_score: float
    chamfer: float
    normal_consistency: float
    seconds: float
    processor_seconds: float


def ring(views: int, size: int) -> Cameras:
    """Views on a level ring, the first from the front."""
    return orbit_cameras([360.0 * number / views for number in range(views)], 0.0, DISTANCE, FOVY, size, size)


def spiral(views: int, size: int, turn: float = 0.0) -> Cameras:
    """Views spread evenly over a zone of the sphere: equal steps of height, golden angles of azimuth, begun at a turn in degrees."""
    share = (torch.arange(views) + 0.5) / views
    low, high = (math.sin(math.radians(degrees)) for degrees in ELEVATIONS)
    elevation = torch.rad2deg(torch.asin(low + share * (high - low)))
    azimuth = (torch.arange(views) * GOLDEN_DEGREES + turn) % 360.0
    c2w = orbit(azimuth, elevation, torch.full((views,), DISTANCE))
    return Cameras(c2w, torch.full((views,), math.radians(FOVY)), size, size)


def write_views(model: Path, folder: Path, train: Cameras) -> None:
    """Render a model as a NeRF-synthetic folder, the train views with normal maps."""
    mesh = load_mesh(model, fit_radius=RADIUS)
    for split, cameras in (("train", train), ("test", spiral(TEST_VIEWS, train.width, 77.0))):
        (folder / split).mkdir(parents=True)
        frames = []
        for number in range(len(cameras)):
            render = render_mesh(mesh, cameras[[number]], background=(0.0, 0.0, 0.0), supersample=3)
            straight = render.rgb / render.alpha.clamp_min(1e-6)
            rgba = (torch.cat([straight, render.alpha], -1)[0].clamp(0, 1) * 255).round().byte()
            Image.fromarray(rgba.numpy()).save(folder / split / f"r_{number:03d}.png")
            frame = {"file_path": f"./{split}/r_{number:03d}", "transform_matrix": cameras.c2w[number].tolist()}
            if split == "train" and render.normal is not None:
                frame["normal_file_path"] = f"./{split}/n_{number:03d}.png"
                normals = ((0.5 + 0.5 * F.normalize(render.normal[0], dim=-1)) * 255).round().byte()
                Image.fromarray(normals.numpy()).save(folder / frame["normal_file_path"])
            frames.append(frame)
        document = {"camera_angle_x": float(cameras.fovy[0]), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))


def names_of(models: list[Path]) -> list[str]:
    """A name for each model: its stem, behind it a number where it is not the first of this stem."""
    stems = [model.stem for model in models]
    return [stem if stem not in stems[:number] else f"{stem}-{stems[:number].count(stem) + 1}" for number, stem in enumerate(stems)]


def fitted(model: Path, name: str, config: str, representation: str, data: Path, output: Path, overrides: list[str]) -> Fit:
    """Fit one model with a representation, as the config has it where that is empty."""
    chosen = [f"representation={representation}"] if representation else []
    fixed = [f"data={data}", f"output={output}", "export.turntable_frames=0", "preview_every=0"]
    settings = load(config, [*fixed, *chosen, *overrides]).settings
    started, worked = time.monotonic(), time.process_time()
    result = execute(settings, "fitting")
    seconds, processor_seconds = time.monotonic() - started, time.process_time() - worked
    metrics = json.loads((result.folder / "metrics.json").read_text())
    scores = {score: metrics[f"test/{score}"] for score in ("psnr_foreground", "psnr", "ssim")}
    like = shape_score(model, result.folder, result.files["glb"])
    used = name_of(next(iter(settings.stages.values())).representation)
    return Fit(name, used, **scores, **vars(like), seconds=seconds, processor_seconds=processor_seconds)


def shape_score(model: Path, run: Path, glb: Path) -> Likeness:
    """Likeness of the visible parts of an exported asset and of the model that its pictures show."""
    truth, made = load_mesh(model, fit_radius=RADIUS), load_mesh(glb)
    placement = torch.tensor(json.loads((run / "placement.json").read_text())["data_from_scene"], dtype=torch.float64)
    asset = made.vertices[:, [1, 2, 0]].double()  # load_mesh turns the axes of glTF into the world's
    matrix = placement @ read_scene_from_asset(glb)
    placed = Mesh((asset @ matrix[:3, :3].T + matrix[:3, 3]).float(), made.faces)
    size, judges = longest_side(truth), spiral(JUDGES, JUDGED_PIXELS)
    candidate, reference = (
        visible_points(mesh, judges, JUDGED_POINTS, 0.5 * NEAR * size, 0, purpose)
        for mesh, purpose in ((placed, "candidate"), (truth, "reference"))
    )
    return likeness(candidate, reference, size, NEAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.glb or key=value")
    parser.add_argument("--representations", default="", help="names with commas between them; without, that of configs/fit.yaml")
    parser.add_argument("--config", default="fit")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--ring", action="store_true", help="train views on a level ring, front first; otherwise they are all around")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    wanted = parser.parse_intermixed_args()
    overrides = [word for word in wanted.models if "=" in word]
    models = [Path(word) for word in wanted.models if "=" not in word]
    found = []
    columns = f"{'foreground dB':>14}{'PSNR dB':>9}{'SSIM':>8}{'F-score':>9}{'chamfer':>9}{'normals':>9}{'seconds':>9}{'CPU s':>8}"
    print(f"{'model':<40}{'shape':<11}{columns}")
    with tempfile.TemporaryDirectory() as scratch:
        output = wanted.keep or Path(scratch)
        for model, name in zip(models, names_of(models), strict=True):
            data = Path(scratch) / "data" / name
            write_views(model, data, (ring if wanted.ring else spiral)(wanted.views, size=wanted.size))
            for representation in wanted.representations.split(","):
                found.append(fitted(model, name, wanted.config, representation, data, output, overrides))
                print(row(found[-1]), flush=True)
                write_results(found, wanted, overrides)


def row(fit: Fit) -> str:
    """A line of the table."""
    images = f"{fit.psnr_foreground:>14.2f}{fit.psnr:>9.2f}{fit.ssim:>8.4f}"
    shape = f"{fit.f_score:>9.4f}{fit.chamfer:>9.5f}{fit.normal_consistency:>9.4f}"
    return f"{fit.model:<40}{fit.representation:<11}{images}{shape}{fit.seconds:>9.1f}{fit.processor_seconds:>8.1f}"


def write_results(found: list[Fit], wanted: argparse.Namespace, overrides: list[str]) -> None:
    """All fits so far as JSON."""
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "processor": processor_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "views": wanted.views,
        "size": wanted.size,
        "overrides": overrides,
        "fits": [asdict(fit) for fit in found],
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
