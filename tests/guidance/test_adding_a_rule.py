"""The worked example of docs/adding_a_rule.md, taken from the page and used as it stands there."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.oracles import Prompts, gaussian_prior, views_and_draws
from threedgen.guidance.core import Teacher, distill

ROOT = Path(__file__).parents[2]


def example() -> str:
    """The Python block of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding_a_rule.md").read_text(), re.DOTALL)
    return code


@pytest.fixture
def package(tmp_path):
    """A folder for PYTHONPATH: an installed package that holds the rule and names it as an entry point."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").touch()
    (tmp_path / "my_package/two_levels.py").write_text(example())
    info = tmp_path / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[threedgen.guidance]\ntwo_levels = my_package.two_levels\n")
    return tmp_path


def launched(package, *words):
    paths = os.pathsep.join([str(package), str(ROOT)])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "launch.py", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_example_has_about_thirty_lines():
    assert len([line for line in example().splitlines() if line.strip()]) <= 30


def test_the_command_line_knows_the_rule_without_a_change_elsewhere(package):
    assert "two_levels" in launched(package, "--list", "guidances").stdout
    words = ["--config", "quickstart.yaml", "prompt=x", "--print-config", "stages.coarse.guidance.type=two_levels"]
    shown = launched(package, *words, "stages.coarse.guidance.share=0.3")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"share: 0\.3", shown.stdout)
    refused = launched(package, *words, "stages.coarse.guidance.share=2")
    assert refused.returncode == 2
    assert "two_levels" not in launched(ROOT, "--list", "guidances").stdout


def test_a_broken_package_is_named_and_does_not_stop_the_others(package):
    (package / "my_package/two_levels.py").write_text("import no_such_module\n")
    listed = launched(package, "--list", "guidances")
    assert listed.returncode == 0
    assert "sds" in listed.stdout
    assert "my_package.two_levels" in listed.stderr
    assert "Traceback" not in listed.stderr


def test_its_gradient_is_its_formula_on_exact_scores(tmp_path, monkeypatch):
    code = example().replace('@register("guidance", "two_levels")\n', "")  # the registry is shared with the other tests
    (tmp_path / "two_levels_example.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    two_levels = importlib.import_module("two_levels_example").TwoLevels
    prior = gaussian_prior()
    rgb = torch.rand(4, 6, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    cameras, draws = views_and_draws()
    rule = two_levels(t_min=0.5, t_max=0.5, cfg=1.0, weight="one")
    out = distill(rule, Teacher(prior, Prompts(prior, "")), rgb, cameras, draws)
    (gradient,) = torch.autograd.grad(out.loss, rgb)

    z, noise = (2 * rgb.detach() - 1).permute(0, 3, 1, 2), draws.normal("noise", (3, 6, 6)).double()
    residuals = []
    for timestep in (500, 250):
        abar = prior.alphas_cumprod[timestep]
        z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise
        residuals.append((1 - abar).sqrt() * (z_t - abar.sqrt() * prior.means) / (abar * 0.09 + 1 - abar) - noise)
    assert torch.allclose(gradient.permute(0, 3, 1, 2) * 4 / 2, sum(residuals) / 2, rtol=1e-5, atol=1e-9)
