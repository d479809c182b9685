"""Names, folders and what is wrong with them; precision; quietness."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from threedgen.errors import UserError
from threedgen.priors import precision
from threedgen.priors.loading import load_prior


@pytest.fixture
def copy(tiny_folder, tmp_path) -> Path:
    return shutil.copytree(tiny_folder("v_prediction", camera=True, multiview=True), tmp_path / "model")


def message(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_prior(str(folder)).encode_text([""])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "part",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_missing_part_is_named(copy, part):
    (copy / part).unlink()
    assert f"{part} is missing" in message(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_cut_short_are_named(copy, part):
    (weights,) = (copy / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    assert part in message(copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_lack_a_tensor_are_named(copy, part):
    (weights,) = (copy / part).glob("*.safetensors")
    tensors = load_file(weights)
    lost = sorted(tensors)[0]
    del tensors[lost]
    save_file(tensors, weights, metadata={"format": "pt"})
    assert f"{part} lacks the weights of" in message(copy)


def test_pickled_weights_are_not_read(copy):
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert "pickled weights are not read" in message(copy)


def test_other_kinds_of_model_are_refused(copy, tiny_folder):
    (copy / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "flow"}')
    assert "'flow'" in message(copy)
    (copy / "text_encoder_2").mkdir()
    assert "two text encoders" in message(copy)


def test_damaged_marker_is_named(copy):
    marker = copy / "threedgen.json"
    values = json.loads(marker.read_text())
    marker.write_text(json.dumps(values | {"colour": "red"}))
    assert "exactly the keys" in message(copy)
    marker.write_text(json.dumps(values | {"fovy": "wide"}))
    assert "threedgen.json is damaged" in message(copy)
    marker.write_text("{")
    assert "threedgen.json is damaged" in message(copy)


def test_unknown_name_lists_the_known_ones(tmp_path):
    assert "stable-diffusion-2-1" in message("no-such-model")
    assert message(tmp_path / "nowhere").startswith("unknown prior")


def test_names_are_resolved_without_torch():
    script = "import sys; from threedgen.priors.loading import folder_of; folder_of('embedded'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_alias_that_was_never_downloaded_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "hf download stable-diffusion-v1-5/stable-diffusion-v1-5" in message("stable-diffusion-1-5")


def test_half_precision_variant_loads(copy, tiny_folder):
    for part in ("unet", "vae", "text_encoder"):
        (weights,) = (copy / part).glob("*.safetensors")
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    plain = load_prior(str(tiny_folder("v_prediction", camera=True, multiview=True)))
    for name, tensor in load_prior(str(copy)).unet.state_dict().items():
        torch.testing.assert_close(tensor, plain.unet.state_dict()[name])


def test_loading_is_quiet(tiny_folder, capfd, caplog):
    with caplog.at_level(logging.WARNING):
        load_prior(str(tiny_folder())).encode_text(["a red apple"])
    out, err = capfd.readouterr()
    assert (out, err, caplog.records) == ("", "", [])


@pytest.mark.parametrize(
    ("flags", "unet"),
    [
        ("avx2 avx512f avx512_bf16", torch.bfloat16),
        ("avx2 amx_bf16", torch.bfloat16),
        ("avx2 avx512f", torch.float32),
        ("avx2 avx_ne_convert", torch.float32),
        ("", torch.float32),
    ],
)
def test_automatic_precision_follows_the_processors_flags(tmp_path, monkeypatch, flags, unet):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    monkeypatch.setattr(precision, "CPUINFO", cpuinfo)
    assert precision.choose(torch.device("cpu")) == precision.Precision(unet, unet)


def test_precision_can_be_insisted_on(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "nowhere")
    cpu = torch.device("cpu")
    assert precision.choose(cpu) == precision.Precision(torch.float32, torch.float32)
    assert precision.choose(cpu, "bfloat16") == precision.Precision(torch.bfloat16, torch.bfloat16)
    assert precision.choose(cpu, "float16") == precision.Precision(torch.float16, torch.float32), "gradients need the range"
    with pytest.raises(UserError, match="unknown precision 'int8': choose one of auto, float32"):
        precision.choose(cpu, "int8")
