"""Distillation against a ground truth: the closed-form prior knows three meshes, and the prompt names one."""

import torch

from benchmarks.oracle import overrides_of, recover


def test_plain_score_distillation_recovers_the_prompted_mesh(tmp_path):
    threads = torch.get_num_threads()
    try:
        found = recover("pine_tree", 0, [*overrides_of(100), "export.resolution=64", "export.texture=64", "export.faces=500"], tmp_path)
    finally:
        torch.set_num_threads(threads)
    # At 120 steps three seeds gave F-scores from 0.974 and at least 25.0 dB; at 100 steps this seed gave 0.999 and 24.3 dB.
    assert found.f_score > 0.9
    assert found.psnr > 20
