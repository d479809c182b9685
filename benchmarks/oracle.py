"""Does distillation recover a known object? The closed-form prior knows three meshes; the prompt names one.

    python benchmarks/oracle.py [--seeds 0 1 2] [--steps 200] [key=value ...]

Runs configs/quickstart-sds.yaml with `prior=analytic` once for each mesh and seed, and compares the
extracted mesh and views that no step drew with the truth. Prints one table and writes benchmarks/results/oracle.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen.cameras import orbit_cameras  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.evaluation.metrics import foreground_psnr  # noqa: E402
from threedgen.evaluation.shapes import f_score  # noqa: E402
from threedgen.representations.base import Mesh, Render  # noqa: E402
from threedgen.representations.hashgrid import HashGridField  # noqa: E402
from threedgen.representations.mesh import load_mesh, render_mesh  # noqa: E402
from threedgen.runs.folder import processor_name  # noqa: E402
from threedgen.runs.run import execute  # noqa: E402

MESHES = ("barrel", "house", "pine_tree")
RADIUS = 0.85  # of the meshes in the scene
RESULTS = ROOT / "benchmarks" / "results" / "oracle.json"
STAGE = "stages.coarse"


@dataclass(frozen=True)
class Recovery:
    """How well a run recovered a mesh: F-score at 5 % of the bounding box, foreground PSNR in dB, seconds of the run."""

    mesh: str
    seed: int
    f_score: float
    psnr: float
    seconds: float


def overrides_of(steps: int) -> list[str]:
    """What shortens the recipe: 32 pixels, and schedules that end with the run."""
    return [
        "prior=analytic",
        "threads=2",
        "export.turntable_frames=0",
        f"{STAGE}.steps={steps}",
        f"{STAGE}.cameras.resolution=32",
        f"{STAGE}.guidance.t_max=[0,0.98,0.5,{steps}]",
    ]


def recover(name: str, seed: int, overrides: list[str], output: Path) -> Recovery:
    """Make the mesh of a name from its prompt and compare it with the truth."""
    words = [f"prompt=a {name.replace('_', ' ')}", f"seed={seed}", f"output={output}", *overrides]
    settings = load("quickstart-sds", words).settings
    started = time.monotonic()
    folder = execute(settings, "oracle").folder
    seconds = time.monotonic() - started
    truth = load_mesh(ROOT / "assets" / "meshes" / f"{name}.glb", fit_radius=RADIUS)
    field = restored(settings.stages["coarse"].representation, folder / "checkpoints" / "coarse.safetensors")
    made = field.to_mesh(settings.export.resolution, settings.export.threshold)
    return Recovery(name, seed, f_score(made, truth), unseen_psnr(field, truth), seconds)


def restored(settings, checkpoint: Path) -> HashGridField:
    """The field in the state of a checkpoint."""
    field, prefix = HashGridField(settings), "representation."
    field.load_state_dict({k.removeprefix(prefix): v for k, v in load_file(checkpoint).items() if k.startswith(prefix)})
    return field


@torch.no_grad()
def unseen_psnr(field: HashGridField, truth: Mesh) -> float:
    """Foreground PSNR in dB over two rings of six views."""
    rings = [orbit_cameras([20.0 + 60 * i for i in range(6)], elevation, 2.6, 40.0, 64, 64) for elevation in (10.0, 35.0)]
    seen = [(field.render(cameras), render_mesh(truth, cameras, supersample=2)) for cameras in rings]

    def both(name: str, which: int) -> torch.Tensor:
        parts: list[Render] = [pair[which] for pair in seen]
        return torch.cat([getattr(part, name) for part in parts])

    return foreground_psnr(both("rgb", 0), both("alpha", 0), both("rgb", 1), both("alpha", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further settings")
    wanted = parser.parse_intermixed_args()
    found = []
    with tempfile.TemporaryDirectory() as output:
        for name in MESHES:
            found += [recover(name, seed, [*overrides_of(wanted.steps), *wanted.overrides], Path(output)) for seed in wanted.seeds]
    print(f"{'mesh':<12}{'seed':>6}{'F-score':>10}{'PSNR dB':>10}{'seconds':>10}")
    for r in found:
        print(f"{r.mesh:<12}{r.seed:>6}{r.f_score:>10.3f}{r.psnr:>10.1f}{r.seconds:>10.1f}")
    RESULTS.parent.mkdir(exist_ok=True)
    content = {
        "processor": processor_name(),
        "torch": torch.__version__,
        "threads": 2,
        "steps": wanted.steps,
        "runs": [asdict(r) for r in found],
    }
    RESULTS.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
