"""A fit from a folder of images to an asset and its scores, through the same door as every run."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.data.folders import barrel_views, ring, write_blender, write_nerfstudio
from tests.runs.conftest import MICRO, only_run, status_of
from threedgen.cli import main
from threedgen.config.loader import load
from threedgen.representations.mesh import load_mesh, render_mesh
from threedgen.runs import stages
from threedgen.runs.estimate import estimate
from threedgen.runs.run import execute

ROOT = Path(__file__).parents[2]
SIZE = 24
STAGE = "stages.fit"
SMALL = [word.replace("stages.coarse", STAGE) for word in MICRO if not word.startswith("prior")]
SMALL += [f"{STAGE}.steps=150", f"{STAGE}.guidance.rays=512", f"{STAGE}.optimizer.lr=0.02", "preview_every=0", "checkpoint_every=0"]


@pytest.fixture(params=["blender", "nerfstudio"])
def data(request, tmp_path):
    """The barrel at (3, 0, 0), in either format."""
    views = barrel_views(ring(16, SIZE, SIZE), offset=(3.0, 0.0, 0.0))
    if request.param == "blender":
        return write_blender(tmp_path / "a barrel", {"train": views, "test": barrel_views(ring(3, SIZE, SIZE), offset=(3.0, 0.0, 0.0))})
    return write_nerfstudio(tmp_path / "a barrel", views)


def test_a_fit_leaves_asset_scores_and_placement_and_loads_no_prior(data, tmp_path, monkeypatch):
    def untouched(*_):
        raise AssertionError("a fit has no prior")

    monkeypatch.setattr(stages, "build_teacher", untouched)
    settings = load("fit", [f"data={data}", f"output={tmp_path / 'runs'}", "representation=hashgrid", *SMALL]).settings
    result = execute(settings, "fit")
    assert result.files["glb"].name == "a-barrel.glb"
    assert status_of(result.folder)["state"] == "finished"
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["test/psnr_foreground"] > 17
    assert metrics["test/psnr"] > metrics["test/psnr_foreground"]
    assert 0.5 < metrics["test/ssim"] < 1
    held_out = 3 if "transforms.json" not in {path.name for path in data.iterdir()} else 2
    assert (len(metrics["test_images"]), metrics["train_images"]) == (held_out, 16 if held_out == 3 else 14)
    mean = sum(image["psnr"] for image in metrics["test_images"]) / held_out
    assert metrics["test/psnr"] == pytest.approx(mean)
    placement = json.loads((result.folder / "placement.json").read_text())
    assert placement["center"] == pytest.approx([3.0, 0.0, 0.0], abs=0.15)
    assert placement["data_from_scene"][0][0] == pytest.approx(1 / placement["scale"])
    assert (result.folder / "previews" / "test.png").stat().st_size
    assert not (result.folder / "prompts").exists()


def test_signed_distances_are_fitted_with_their_recipe_and_meshed(tmp_path):
    views = barrel_views(ring(16, SIZE, SIZE))
    data = write_blender(tmp_path / "barrel", {"train": views, "test": barrel_views(ring(3, SIZE, SIZE))})
    loaded = load(
        "fit", [f"data={data}", f"output={tmp_path / 'runs'}", "representation=sdf", *SMALL, f"{STAGE}.representation.samples=64"]
    )
    assert loaded.settings.stages["fit"].regularizers.eikonal > 0
    result = execute(loaded.settings, "fit")
    assert json.loads((result.folder / "metrics.json").read_text())["test/psnr_foreground"] > 17
    assert result.files["glb"].stat().st_size


def test_bad_data_fails_in_one_line_before_anything_is_built(data, tmp_path, capsys):
    for file in sorted(data.rglob("*.png"))[-1:]:
        file.write_bytes(file.read_bytes()[:60])
    assert main(["--config", "fit", f"data={data}", f"output={tmp_path / 'runs'}", *SMALL]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "replace the file" in err
    assert status_of(only_run(tmp_path / "runs"))["state"] == "failed"


def test_a_dry_run_estimates_a_fit(data, tmp_path):
    found = estimate(load("fit", [f"data={data}", f"output={tmp_path / 'runs'}", *SMALL]).settings)
    assert {"loading", "stage fit, optimization", "export"} == set(found.parts)
    assert found.seconds == pytest.approx(sum(found.parts.values()))


TINY = [word for word in SMALL if not word.endswith(("samples=32", "occupancy_resolution=16", "steps=150"))]


@pytest.mark.parametrize("representation", ["dmtet", "flexicubes", "mesh"])
def test_a_surface_starts_from_the_hull_of_the_silhouettes(tmp_path, representation):
    """With no step to speak of, the outlines already are right: the hull of 16 views of a barrel is nearly the barrel."""
    data = write_blender(tmp_path / "d", {split: barrel_views(ring(16, 48, 48)) for split in ("train", "test")})
    words = [f"{STAGE}.steps=1", f"{STAGE}.representation.resolution=24"]
    words += [f"{STAGE}.representation.edge=0.08"] if representation == "mesh" else []
    settings = load("fit", [f"data={data}", f"output={tmp_path / 'runs'}", f"representation={representation}", *TINY, *words]).settings
    result = execute(settings, "fit")
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert metrics["test/psnr"] - metrics["test/psnr_foreground"] > 2
    assert metrics["test/psnr"] > 13
    made = result.files["glb"].read_bytes()
    assert execute(settings, "fit", resume=True).files["glb"].read_bytes() == made  # nothing is left to do


def test_normal_maps_bend_a_mesh(tmp_path):
    """Four views of a cube-like hull with the normals of the barrel in it: the fit comes nearer to them."""
    cameras = ring(4, 32, 32)
    data = write_blender(tmp_path / "d", {"train": barrel_views(cameras), "test": barrel_views(ring(3, 32, 32))})
    mesh = load_mesh(ROOT / "assets" / "meshes" / "barrel.glb", fit_radius=0.8)
    normal = render_mesh(mesh, cameras).normal
    assert normal is not None
    document = json.loads((data / "transforms_train.json").read_text())
    for number, frame in enumerate(document["frames"]):
        frame["normal_file_path"] = f"n_{number}.png"
        Image.fromarray(((0.5 + 0.5 * normal[number]) * 255).round().byte().numpy()).save(data / f"n_{number}.png")
    (data / "transforms_train.json").write_text(json.dumps(document))
    stage = "stages.fusion"
    words = [word.replace(STAGE, stage) for word in TINY if "rays" not in word]
    words += [f"{stage}.{setting}" for setting in ("steps=20", "representation.edge=0.08", "representation.resolution=28")]
    settings = load("isomer", [f"data={data}", f"output={tmp_path / 'runs'}", *words]).settings
    folder = execute(settings, "isomer").folder
    (log,) = folder.glob("logs/*/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["images/normal"]]
    assert float(rows[-1]["images/normal"]) < 0.85 * float(rows[0]["images/normal"])
