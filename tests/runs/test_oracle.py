"""Distillation against a ground truth: the closed-form prior knows three meshes, and the prompt names one."""

import torch

from benchmarks.oracle import overrides_of, recover


def test_plain_score_distillation_recovers_the_prompted_mesh(tmp_path):
    threads = torch.get_num_threads()
    try:
        found = recover("pine_tree", 0, [*overrides_of(100), "export.resolution=64", "export.texture=64", "export.faces=500"], tmp_path)
    finally:
        torch.set_num_threads(threads)
    # Three seeds gave an F-score of at least 0.97 and 22 dB; another of the meshes scores below 0.7 and 14 dB.
    assert found.f_score > 0.9
    assert found.psnr > 20
