"""How near do rules come to an object the prior knows, and does it get more than one front?

    python benchmarks/compare_rules.py [--ways sds vsd ...] [--objects barrel horse] [--seeds 0 1 2] [--jobs 2]

Runs quickstart.yaml with each rule's recipe on the prompt of a known object, and compares 12 views of what was made with renders of the
object itself, at 64 pixels. The recipes give each rule about the same time, not the same number of steps. Jobs run beside each other, one
thread each. Both are brought to one size and position (bounding box of the opaque pixels), and the azimuth by which the
result is turned is the one that fits all views best.

- distance: root mean square difference of colour over the views, at the common azimuth.
- iou: of the silhouettes, at the common azimuth.
- fronts: share of the views that resemble a view of the true front (within 45 degrees) most, each taken for itself. A quarter of the
  views does for a perfect copy; half of them for an object with a face on both sides.
- agreement: how far the azimuths at which single views fit best agree on one turn of the object: 1 they all do, 0 not at all. Fronts and
  agreement say nothing of a solid of revolution.

Writes benchmarks/results/compare_rules.json after every run, the views to outputs/compare/, and prints means over the seeds. `--page`
makes docs/comparison.md of all that is there; what a person concludes stands in benchmarks/results/compare_rules.md and is copied.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from threedgen.cameras import orbit_cameras  # noqa: E402
from threedgen.config.loader import load  # noqa: E402
from threedgen.representations.base import Render  # noqa: E402
from threedgen.representations.hashgrid import HashGridField  # noqa: E402
from threedgen.representations.mesh import load_mesh, render_mesh  # noqa: E402
from threedgen.runs.folder import processor_name  # noqa: E402
from threedgen.runs.run import execute  # noqa: E402

OBJECTS = {
    "barrel": (ROOT / "assets" / "meshes" / "barrel.glb", "a wooden barrel"),
    "horse": (ROOT / "benchmarks" / "objects" / "horse.glb", "a brown horse"),
}
RULE = "stages.coarse.guidance"
SPACES = {
    "latent": [f"{RULE}.space=latent"],
    "pixel": [f"{RULE}.space=pixel", f"{RULE}.pixel_scale=1"],
    "both": [f"{RULE}.space=both", f"{RULE}.pixel_scale=10"],
}
# "sds" is the published form, the others are reconstruction forms (weight sigma / alpha).
WAYS = {"sds": [f"{RULE}.type=sds", f"{RULE}.weight=sigma2", *SPACES["latent"]], "im3d": []}
WAYS |= {
    f"{rule}, {space}": [f"{RULE}.type={rule}", *SPACES[space]]
    for rule in ("sds", "reconstruction")
    for space in ("latent", "pixel", "both")
}
WAYS |= {
    f"{rule}, {space}": [f"{RULE}.type={rule}", *SPACES[space]] for rule in ("vsd", "esd", "csm", "ism") for space in ("pixel", "both")
}
VIEWS, SIZE, ELEVATION = 12, 64, 15.0
RESULTS = ROOT / "benchmarks" / "results" / "compare_rules.json"
PICTURES = ROOT / "outputs" / "compare"
FINDINGS, PAGE, IMAGES = RESULTS.with_suffix(".md"), ROOT / "docs" / "comparison.md", ROOT / "docs" / "images"
SHOWN, LABEL = (0, 2, 4, 6, 8, 10), 150
SMALL = ["export.resolution=48", "export.faces=1000", "export.texture=64", "export.turntable_frames=0"]


@dataclass(frozen=True)
class Compared:
    """One run against the object it was asked for."""

    way: str
    object: str
    seed: int
    distance: float
    iou: float
    fronts: float
    agreement: float
    seconds: float


def ring() -> list[float]:
    return [360.0 * i / VIEWS for i in range(VIEWS)]


def framed(render: Render) -> Tensor:
    """[V,4,S,S] colour on white and opacity, cut to the common bounding box of the opaque pixels."""
    rgba = torch.cat([render.rgb, render.alpha], -1).permute(0, 3, 1, 2).float()
    opaque = (rgba[:, 3] > 0.5).any(0)
    if not opaque.any():
        return rgba
    rows, columns = opaque.any(1).nonzero()[:, 0], opaque.any(0).nonzero()[:, 0]
    cut = rgba[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return F.interpolate(cut, (SIZE, SIZE), mode="bilinear", antialias=True)


def differences(made: Tensor, truth: Tensor) -> Tensor:
    """[V,V] mean squared difference of colour of every made view to every true view."""
    return (made[:, None, :3] - truth[None, :, :3]).square().flatten(2).mean(2)


def compare(made: Tensor, truth: Tensor) -> tuple[float, float, float, float]:
    """Distance, iou, fronts, agreement; the true views begin at the front, azimuth 0."""
    table = differences(made, truth)
    index = torch.arange(VIEWS)
    turns = torch.stack([table[index, (index + turn) % VIEWS].mean() for turn in range(VIEWS)])
    turned = truth[(index + int(turns.argmin())) % VIEWS]
    a, b = made[:, 3] > 0.5, turned[:, 3] > 0.5
    best = table.argmin(1)
    angle = 2 * torch.pi / VIEWS * ((best - index) % VIEWS)
    agreement = torch.stack([angle.cos().mean(), angle.sin().mean()]).norm()
    front = torch.minimum(best, VIEWS - best) * 360 / VIEWS <= 45
    return float(turns.min().sqrt()), float((a & b).sum() / (a | b).sum().clamp(min=1)), float(front.float().mean()), float(agreement)


def run(way: str, name: str, seed: int) -> Compared:
    """Make the object in a way and compare it."""
    with tempfile.TemporaryDirectory() as output:
        return made_and_compared(way, name, seed, output)


def made_and_compared(way: str, name: str, seed: int, output: str) -> Compared:
    file, prompt = OBJECTS[name]
    words = [f"prompt={prompt}", f"seed={seed}", f"output={output}", "threads=1", *SMALL, *WAYS[way]]
    settings = load("quickstart", words).settings
    started = time.monotonic()
    folder = execute(settings, "compare").folder
    seconds = time.monotonic() - started
    field, prefix = HashGridField(settings.stages["coarse"].representation), "representation."
    state = load_file(folder / "checkpoints" / "coarse.safetensors")
    field.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    cameras = orbit_cameras(ring(), ELEVATION, 2.6, 40.0, 2 * SIZE, 2 * SIZE)
    with torch.no_grad():
        made = framed(field.render(cameras))
    truth = framed(render_mesh(load_mesh(file, fit_radius=0.85), cameras, supersample=2))
    picture(made, picture_of(name, way, seed))
    picture(truth, PICTURES / f"{name}.png")
    return Compared(way, name, seed, *(round(v, 4) for v in compare(made, truth)), seconds=round(seconds, 1))


def picture_of(name: str, way: str, seed: int) -> Path:
    return PICTURES / f"{name}-{way.replace(', ', '_')}-{seed}.png"


def picture(views: Tensor, path: Path) -> None:
    """The views in a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    row = views[:, :3].permute(2, 0, 3, 1).flatten(1, 2)
    Image.fromarray((row.clamp(0, 1) * 255).round().byte().numpy()).save(path)


def store(result: Compared) -> list[dict]:
    """Put a result in place of an older one of the same run; all results."""
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    key = (result.way, result.object, result.seed)
    rows = [row for row in rows if (row["way"], row["object"], row["seed"]) != key] + [asdict(result)]
    rows.sort(key=lambda row: (row["object"], list(WAYS).index(row["way"]), row["seed"]))
    RESULTS.write_text(json.dumps({"processor": processor_name(), "rows": rows}, indent=1) + "\n")
    return rows


NUMBERS = ("distance", "iou", "fronts", "agreement", "seconds")


def means(rows: list[dict]) -> list[tuple[str, str, int, dict[str, float], float]]:
    """Object, way, number of seeds, mean numbers, spread of the distance over the seeds."""
    table = []
    for name, way in dict.fromkeys((row["object"], row["way"]) for row in rows):
        group = [row for row in rows if (row["object"], row["way"]) == (name, way)]
        values = {k: torch.tensor([float(row[k]) for row in group]) for k in NUMBERS}
        spread = float(values["distance"].std()) if len(group) > 1 else 0.0
        table.append((name, way, len(group), {k: float(v.mean()) for k, v in values.items()}, spread))
    return table


def show(rows: list[dict]) -> None:
    """Means over the seeds, with the spread of the distance."""
    print(f"{'object':8} {'way':24} {'seeds':>5} {'distance':>15} {'iou':>6} {'fronts':>7} {'agreement':>10} {'seconds':>8}")
    for name, way, seeds, mean, spread in means(rows):
        print(
            f"{name:8} {way:24} {seeds:5d} {mean['distance']:7.3f} ± {spread:.3f} {mean['iou']:6.2f} {mean['fronts']:7.2f} "
            f"{mean['agreement']:10.2f} {mean['seconds']:8.0f}"
        )


def sheet(name: str) -> Image.Image:
    """Views of an object, and below it of what each way made of it with the first seed."""
    made = [(way, picture_of(name, way, 0)) for way in WAYS]
    rows = [("the object", PICTURES / f"{name}.png"), *((way, file) for way, file in made if file.exists())]
    image = Image.new("RGB", (LABEL + len(SHOWN) * SIZE, len(rows) * SIZE), "white")
    draw = ImageDraw.Draw(image)
    for line, (label, file) in enumerate(rows):
        draw.text((2, line * SIZE + SIZE // 2), label, fill="black")
        views = Image.open(file)
        for place, view in enumerate(SHOWN):
            image.paste(views.crop((view * SIZE, 0, (view + 1) * SIZE, SIZE)), (LABEL + place * SIZE, line * SIZE))
    return image


def write_page() -> None:
    """docs/comparison.md and its pictures from the stored results."""
    stored = json.loads(RESULTS.read_text())
    lines = ["# Rules against known objects", "", "<!-- generated by benchmarks/compare_rules.py --page -->", "", FINDINGS.read_text()]
    lines += ["## Numbers", "", f"Means over seeds; one thread of an {stored['processor']} a run.", ""]
    lines += ["| object | way | seeds | distance | iou | fronts | agreement | s |", "|---|---|---|---|---|---|---|---|"]
    for name, way, seeds, mean, spread in means(stored["rows"]):
        numbers = f"{mean['iou']:.2f} | {mean['fronts']:.2f} | {mean['agreement']:.2f} | {mean['seconds']:.0f}"
        lines.append(f"| {name} | {way} | {seeds} | {mean['distance']:.3f} ± {spread:.3f} | {numbers} |")
    for name, (_, prompt) in OBJECTS.items():
        file = IMAGES / f"comparison-{name}.png"
        sheet(name).quantize(96).save(file, optimize=True)
        lines += ["", f"## {prompt}, seed 0", "", f"![the {name} by every rule](images/{file.name})"]
    PAGE.write_text("\n".join(lines) + "\n")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--objects", nargs="+", default=list(OBJECTS), choices=list(OBJECTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs beside each other, one thread each")
    parser.add_argument("--page", action="store_true", help="only write the page")
    arguments = parser.parse_args()
    if arguments.page:
        write_page()
        return
    todo = [(way, name, seed) for seed in arguments.seeds for name in arguments.objects for way in arguments.ways]
    rows: list[dict] = []
    # a fresh process a run: nothing of one run is left for the next
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for result in pool.imap_unordered(run_one, todo):
            rows = store(result)
    show(rows)


def run_one(task: tuple[str, str, int]) -> Compared:
    return run(*task)


if __name__ == "__main__":
    main()
