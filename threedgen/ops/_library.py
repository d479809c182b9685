"""Loads the compiled operators, or defines the same operators in Python where there are none.

Every operator has one schema, a torch twin registered as its kernel for all devices (CompositeExplicitAutograd), and, where the
library is built, kernels per device that take precedence. THREEDGEN_NO_EXT=1 leaves the library out.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from threedgen.errors import UserError

# The schemas of custom_cuda/ops.cpp, for the case that it is not built.
SCHEMAS = (
    "hash_grid(Tensor x, Tensor table, int[] resolutions, int[] offsets) -> Tensor",
    "hash_grid_backward(Tensor grad, Tensor x, Tensor table, int[] resolutions, int[] offsets, bool need_x) -> (Tensor, Tensor)",
    "march_rays(Tensor origins, Tensor directions, Tensor near, Tensor far, Tensor occupancy, Tensor jitter, float step) "
    "-> (Tensor, Tensor)",
    "composite(Tensor sigma, Tensor features, Tensor offsets, float step) -> (Tensor, Tensor, Tensor)",
    "composite_backward(Tensor grad_out, Tensor grad_transmittance, Tensor grad_weights, Tensor sigma, Tensor features, "
    "Tensor offsets, Tensor transmittance, float step) -> (Tensor, Tensor)",
    "rasterize(Tensor clip, Tensor faces, int height, int width) -> (Tensor, Tensor)",
    "project_gaussians(Tensor means, Tensor axes, Tensor turn, Tensor eye, Tensor focal, int height, int width) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "project_gaussians_backward(Tensor grad_mean, Tensor grad_conic, Tensor grad_depth, Tensor grad_shrink, Tensor means, Tensor axes, "
    "Tensor turn, Tensor eye, Tensor focal, int height, int width) -> (Tensor, Tensor)",
    "splat_bins(Tensor mean, Tensor extent, Tensor depth, int height, int width, int tile) -> (Tensor, Tensor)",
    "splat(Tensor mean, Tensor conic, Tensor opacity, Tensor features, Tensor extent, Tensor entries, Tensor offsets, int height, "
    "int width, int tile) -> (Tensor, Tensor, Tensor)",
    "splat_backward(Tensor grad_out, Tensor grad_transmittance, Tensor mean, Tensor conic, Tensor opacity, Tensor features, "
    "Tensor extent, Tensor entries, Tensor offsets, Tensor transmittance, Tensor last, int height, int width, int tile) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    "barycentric(Tensor clip, Tensor faces, Tensor face) -> Tensor",
    "barycentric_backward(Tensor grad, Tensor clip, Tensor faces, Tensor face) -> Tensor",
    "interpolate(Tensor attributes, Tensor faces, Tensor face, Tensor weights) -> Tensor",
    "interpolate_backward(Tensor grad, Tensor attributes, Tensor faces, Tensor face, Tensor weights) -> (Tensor, Tensor)",
    "silhouettes(Tensor clip, Tensor faces, Tensor face, Tensor adjacency) -> Tensor",
    "silhouettes_backward(Tensor grad, Tensor clip, Tensor faces, Tensor face, Tensor adjacency) -> Tensor",
    "cpu_isa() -> str",
)
BUILD = "`python setup.py build_ext --inplace` in the repository, or `pip install --no-build-isolation .`, builds them"


def _load() -> tuple[torch.library.Library, str | None]:
    """The library to register Python kernels in, and why there are no compiled kernels (None where there are)."""
    found = sorted(Path(__file__).parent.parent.glob("_C*.so"))
    if os.environ.get("THREEDGEN_NO_EXT", "0") not in ("", "0"):
        missing = "THREEDGEN_NO_EXT is set"
    elif not found:
        missing = f"they are not built; {BUILD}"
    else:
        try:
            torch.ops.load_library(found[0])
            return torch.library.Library("threedgen", "FRAGMENT"), None
        except OSError as error:
            missing = f"{found[0].name} does not load ({error}), as after a change of torch; {BUILD}"
    library = torch.library.Library("threedgen", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    return library, missing


_library, _missing = _load()
_warned: set[str] = set()


def register(name: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Gives an operator its torch twin, used where a device has no compiled kernel, and the shapes of its outputs."""
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"threedgen::{name}", fake, lib=_library)


def register_autograd(name: str, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """Gives an operator its gradient; arguments as for `torch.library.register_autograd`."""
    torch.library.register_autograd(f"threedgen::{name}", backward, setup_context=setup_context, lib=_library)


def cpu_isa() -> Literal["baseline", "v3", "v4", "none"]:
    """The x86-64 level of the compiled CPU kernels in use ("baseline" on other processors), "none" without compiled kernels.

    Raises:
        UserError: THREEDGEN_CPU_ISA names a level that is unknown or not supported by this processor.
    """
    if _missing is not None:
        return "none"
    try:
        return torch.ops.threedgen.cpu_isa()
    except ValueError as error:
        raise UserError(str(error).splitlines()[0]) from None


def backend(device: torch.device | str = "cpu") -> Literal["compiled", "reference"]:
    """Whether operators on a device run compiled kernels or their torch twins."""
    key = "CUDA" if torch.device(device).type == "cuda" else torch.device(device).type.upper()
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key("threedgen::hash_grid", key)
    return "compiled" if compiled else "reference"


def warn_if_reference(tensor: Tensor) -> None:
    """Says once per device type that operators run as pure torch there, with the reason and the remedy."""
    device = tensor.device.type
    if device in _warned or device == "meta" or backend(device) == "compiled":
        return
    _warned.add(device)
    reason = _missing or f"the library was built without {device}; {BUILD} where torch has it"
    message = f"threedgen's operators run as pure torch on {device}, tens of times slower than compiled: {reason}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


cpu_isa()  # a wrong THREEDGEN_CPU_ISA ends here, in one line, and not inside an operator
