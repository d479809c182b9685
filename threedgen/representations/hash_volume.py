"""A volume whose values come from a multiresolution hash grid with one hidden layer behind it (Instant-NGP, arXiv 2201.05989)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.config.schema import VolumeSettings
from threedgen.draws import Draws
from threedgen.ops.hash_grid import hash_grid
from threedgen.representations.base import Forgotten
from threedgen.representations.color_field import hash_grid_spec
from threedgen.representations.volume import Volume


class HashVolume(Volume):
    """The network of a volume, and which levels of its grid are in use.

    Buffer: levels_in_use, the coarsest levels that count; the values of the others are 0 and get no gradient (coarse to fine, as in
    Neuralangelo, arXiv 2306.03092).
    """

    levels_in_use: Tensor

    def __init__(self, settings: VolumeSettings, outputs: int, seed: int, occupancy_decay: float = 0.9) -> None:
        super().__init__(settings, occupancy_decay)
        s, rng = settings, torch.Generator().manual_seed(seed)
        self.spec = hash_grid_spec(s)
        self.table = nn.Parameter((torch.rand(self.spec.rows, s.features, generator=rng) * 2 - 1) * 1e-4)
        self.hidden = nn.Parameter(torch.randn(s.hidden, self.spec.width, generator=rng) * math.sqrt(2 / self.spec.width))
        self.head = nn.Parameter(torch.randn(outputs, s.hidden, generator=rng) * math.sqrt(1 / s.hidden))
        self.head_bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("levels_in_use", torch.tensor(min(s.band_start, s.levels) if s.band_every else s.levels))

    def field_groups(self) -> list[dict]:
        network = {"params": [self.hidden, self.head, self.head_bias], "share": self.settings.network_share, "name": "network"}
        return [{"params": [self.table], "name": "grid"}, network]

    def network(self, points: Tensor) -> Tensor:
        """[N,outputs] at world points [N,3]."""
        features = hash_grid((points / (2 * self.settings.radius) + 0.5).clamp(0, 1), self.table, self.spec)
        if self.settings.band_every:
            levels = torch.arange(self.spec.width, device=features.device) // self.spec.features
            features = features * (levels < self.levels_in_use)
        return F.linear(F.relu(F.linear(features, self.hidden)), self.head, self.head_bias)

    @property
    def finest_cell(self) -> float:
        """Side of a cell of the finest level in use, world units."""
        return 2 * self.settings.radius / self.spec.resolutions[int(self.levels_in_use) - 1]

    @torch.no_grad()
    def after_step(self, step: int, draws: Draws) -> Forgotten:
        """Refresh the occupancy grid; a further level comes into use every `band_every` steps."""
        if self.settings.band_every and (step + 1) % self.settings.band_every == 0:
            self.levels_in_use.add_(1).clamp_(max=self.settings.levels)
        return super().after_step(step, draws)
