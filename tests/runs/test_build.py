"""Settings reach the parts of a run."""

import torch

from threedgen.cameras import orbit_cameras
from threedgen.config.loader import load
from threedgen.runs.build import build_teacher

RUN = ["prior=analytic", "prompt=a barrel with a face", "prompts.view_dependent=words", "prompts.view_drop.back=[face]"]


def test_prompts_depend_on_the_view_and_perp_neg_is_prepared_where_it_is_used():
    plain = build_teacher(load("quickstart-sds", RUN).settings, "cpu", None).prompts
    assert plain.texts["text"][2] == "a barrel with a, back view"
    assert "perp_0" not in plain.texts
    for scale in ("1", "[3000, 0, 1, 3500]"):
        bank = build_teacher(load("quickstart-sds", [*RUN, f"stages.coarse.guidance.perp_neg={scale}"]).settings, "cpu", None).prompts
        assert bank.texts["perp_0"] == ("a barrel with a face, front view",)
        c2w = orbit_cameras([0.0, 180.0], 10.0, 2.6, 40.0, 8, 8).c2w
        assert torch.equal(bank.rows("text", c2w), bank.rows("perp_1", c2w))
