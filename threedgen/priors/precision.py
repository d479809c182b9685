"""The number format a frozen model computes in, chosen by what the processor has instructions for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from threedgen.errors import UserError

CPUINFO = Path("/proc/cpuinfo")

# Without one of these flags, bfloat16 on a CPU is emulated element by element, some hundred times slower than float32.
NATIVE_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAMES = ("auto", *_DTYPES)


@dataclass(frozen=True)
class Precision:
    """Number formats of a prior's networks.

    Attributes:
        unet: of the noise prediction, which carries no gradient.
        vae: of the autoencoder, through which gradients flow. Never float16, whose gradients underflow.
    """

    unet: torch.dtype
    vae: torch.dtype


def processor_flags(cpuinfo: Path) -> frozenset[str]:
    """Instruction-set flags of the first processor; empty where the system does not tell."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(NATIVE_BFLOAT16_FLAGS & processor_flags(CPUINFO))


def choose(device: torch.device, name: str = "auto") -> Precision:
    """Precision on a device.

    Args:
        device: where the prior computes.
        name: "auto", or "float32", "bfloat16", "float16" to insist on one.

    Raises:
        UserError: on another name.
    """
    if name not in NAMES:
        raise UserError(f"unknown precision '{name}': choose one of {', '.join(NAMES)}")
    native = _native_bfloat16(device)
    if name == "auto":
        fallback = torch.float16 if device.type == "cuda" else torch.float32
        return Precision(torch.bfloat16 if native else fallback, torch.bfloat16 if native else torch.float32)
    dtype = _DTYPES[name]
    return Precision(dtype, torch.float32 if dtype == torch.float16 else dtype)
