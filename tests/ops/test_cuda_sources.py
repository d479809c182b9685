"""The CUDA sources compile, where there is a compiler for them; no GPU and no CUDA build of torch is needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

SOURCES = Path(__file__).parents[2] / "custom_cuda"
KERNELS = (
    "hash_grid_forward",
    "hash_grid_backward_table",
    "hash_grid_backward_x",
    "write_samples",
    "composite_rays_backward",
    "project_gaussians_forward",
    "project_gaussians_backward_means",
    "splat_count_tiles",
    "splat_write_entries",
    "splat_tile_offsets",
    "splat_forward",
    "splat_backward_entries",
)
nvcc = shutil.which("nvcc")


@pytest.mark.slow
@pytest.mark.skipif(nvcc is None, reason="nvcc is not installed: CUDA sources are not compiled")
def test_cuda_sources_compile(tmp_path: Path) -> None:
    """All in one translation unit and for the device only, because torch's headers take most of the time."""
    sources = sorted(SOURCES.glob("cuda/*.cu"))
    assert sources
    everything = tmp_path / "everything.cu"
    everything.write_text("".join(f'#include "{source}"\n' for source in sources))
    generated = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"  # which a CPU build of torch leaves out
    generated.parent.mkdir(parents=True)
    generated.touch()
    includes = [f"-isystem={path}" for path in (*include_paths(), str(tmp_path))]
    flags = ["-std=c++20", "-arch=sm_90", "--expt-relaxed-constexpr", f"-I{SOURCES}", *includes]
    command = ["nvcc", *flags, "-ptx", str(everything), "-o", str(tmp_path / "all.ptx")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    kernels = (tmp_path / "all.ptx").read_text()
    for operator in KERNELS:
        assert operator in kernels
    for operator in ("barycentric_forward", "barycentric_backward_pixels", "interpolate_forward", "interpolate_backward_pixels"):
        assert operator in kernels
    for operator in ("silhouettes_forward", "silhouettes_backward_pairs"):
        assert operator in kernels
