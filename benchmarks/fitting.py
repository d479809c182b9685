"""How well is a known object fitted from its pictures?

    python benchmarks/fitting.py MODEL.glb [MODEL.glb ...] [--views 64] [--size 128] [key=value ...]

Renders each model all around with threedgen's own rasterizer, as a NeRF-synthetic folder of RGBA images with as many train views and 16
test views in between, and runs configs/fit.yaml on it. Prints one table and writes benchmarks/results/fitting.json; with --keep FOLDER the
folders of the runs stay there.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, orbit  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.representations.mesh import load_mesh, render_mesh  # noqa: E402
from threedgen.runs.folder import processor_name  # noqa: E402
from threedgen.runs.run import execute  # noqa: E402

TEST_VIEWS = 16
DISTANCE, FOVY, RADIUS = 2.6, 40.0, 0.85
ELEVATIONS = (-15.0, 65.0)
GOLDEN_DEGREES = 180.0 * (3.0 - math.sqrt(5.0))
RESULTS = ROOT / "benchmarks" / "results" / "fitting.json"


@dataclass(frozen=True)
class Fit:
    """Scores of the test views of a model, and the seconds of the run from reading to export, on the clock and of the processor."""

    model: str
    psnr_foreground: float
    psnr: float
    ssim: float
    seconds: float
    processor_seconds: float


def spiral(views: int, turn: float, size: int) -> Cameras:
    """Views spread evenly over a zone of the sphere: equal steps of height, golden angles of azimuth, begun at a turn in degrees."""
    share = (torch.arange(views) + 0.5) / views
    low, high = (math.sin(math.radians(degrees)) for degrees in ELEVATIONS)
    elevation = torch.rad2deg(torch.asin(low + share * (high - low)))
    azimuth = (torch.arange(views) * GOLDEN_DEGREES + turn) % 360.0
    c2w = orbit(azimuth, elevation, torch.full((views,), DISTANCE))
    return Cameras(c2w, torch.full((views,), math.radians(FOVY)), size, size)


def write_views(model: Path, folder: Path, views: int, size: int) -> None:
    """Render a model as a NeRF-synthetic folder."""
    mesh = load_mesh(model, fit_radius=RADIUS)
    for split, cameras in (("train", spiral(views, 0.0, size)), ("test", spiral(TEST_VIEWS, 77.0, size))):
        (folder / split).mkdir(parents=True)
        frames = []
        for number in range(len(cameras)):
            render = render_mesh(mesh, cameras[[number]], background=(0.0, 0.0, 0.0), supersample=3)
            straight = render.rgb / render.alpha.clamp_min(1e-6)
            rgba = (torch.cat([straight, render.alpha], -1)[0].clamp(0, 1) * 255).round().byte()
            Image.fromarray(rgba.numpy()).save(folder / split / f"r_{number:03d}.png")
            frames.append({"file_path": f"./{split}/r_{number:03d}", "transform_matrix": cameras.c2w[number].tolist()})
        document = {"camera_angle_x": math.radians(FOVY), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(document))


def fitted(model: Path, scratch: Path, output: Path, views: int, size: int, overrides: list[str]) -> Fit:
    """Fit one model."""
    data = scratch / model.stem
    write_views(model, data, views, size)
    settings = load("fit", [f"data={data}", f"output={output}", "export.turntable_frames=0", "preview_every=0", *overrides]).settings
    started, worked = time.monotonic(), time.process_time()
    folder = execute(settings, "fitting").folder
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = (metrics[f"test/{name}"] for name in ("psnr_foreground", "psnr", "ssim"))
    return Fit(model.stem, *scores, seconds=time.monotonic() - started, processor_seconds=time.process_time() - worked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL.glb or key=value")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--keep", type=Path, help="folder that keeps the runs")
    wanted = parser.parse_intermixed_args()
    overrides = [word for word in wanted.models if "=" in word]
    models = [Path(word) for word in wanted.models if "=" not in word]
    found = []
    print(f"{'model':<40}{'foreground dB':>14}{'PSNR dB':>9}{'SSIM':>8}{'seconds':>9}{'CPU s':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            found.append(fitted(model, Path(scratch) / "data", wanted.keep or Path(scratch), wanted.views, wanted.size, overrides))
            fit = found[-1]
            scores = f"{fit.psnr_foreground:>14.2f}{fit.psnr:>9.2f}{fit.ssim:>8.4f}"
            print(f"{fit.model:<40}{scores}{fit.seconds:>9.1f}{fit.processor_seconds:>8.1f}", flush=True)
            write_results(found, wanted, overrides)


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
