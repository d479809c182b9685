"""Runs every operator once, forwards and backwards, and saves the results in the file named as argument.

For tests that need a fresh process.
"""

from __future__ import annotations

import sys
import warnings

import torch

from threedgen.ops import HashGridSpec, backend, composite, cpu_isa, hash_grid, march_rays, splat


def results() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    spec = HashGridSpec(levels=6, log2_table=11, base_resolution=4, max_resolution=60)
    x = torch.rand(3001, 3, generator=rng).requires_grad_()
    table = torch.randn(spec.rows, spec.features, generator=rng).requires_grad_()
    encoding = hash_grid(x, table, spec)
    grad_x, grad_table = torch.autograd.grad(encoding.square().sum(), (x, table))

    count = 1025
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1)
    occupancy = torch.rand(32, 32, 32, generator=rng) < 0.05
    near = torch.full((count,), 0.5)
    offsets, t = march_rays(-2 * directions, directions, near, near + 3, occupancy, torch.rand(count, generator=rng), 0.02)

    sigma = (torch.rand(len(t), generator=rng) * 30).requires_grad_()
    features = torch.rand(len(t), 3, generator=rng).requires_grad_()
    out, transmittance, weights = composite(sigma, features, offsets, 0.02)
    grad_sigma, grad_features = torch.autograd.grad(out.square().sum() + transmittance.sum() + weights.square().sum(), (sigma, features))

    mean, opacity, colours = (torch.rand(2, 400, size, generator=rng) for size in (2, 1, 5))
    projected = [mean * 50, torch.tensor([0.1, 0.02, 0.08]).expand(2, 400, 3).clone(), opacity[..., 0], colours]
    for value in projected:
        value.requires_grad_()
    image, clear = splat(*projected, torch.rand(2, 400, generator=rng) + 1, 45, 51)
    grads = torch.autograd.grad(image.square().sum() + clear.sum(), projected)
    named = {f"splat_{i}": value for i, value in enumerate((image, clear, *grads))}
    named |= {"encoding": encoding, "grad_x": grad_x, "grad_table": grad_table, "offsets": offsets, "t": t, "out": out}
    named |= {"transmittance": transmittance, "weights": weights, "grad_sigma": grad_sigma, "grad_features": grad_features}
    return {name: tensor.detach() for name, tensor in named.items()}


if __name__ == "__main__":
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tensors = results()
    messages = [str(warning.message) for warning in caught]
    torch.save({"tensors": tensors, "backend": backend(), "isa": cpu_isa(), "warnings": messages}, sys.argv[1])
