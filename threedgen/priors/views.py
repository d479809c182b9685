"""What a multi-view diffusion model knows of cameras: its marker file, its camera embedding, its joint attention."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional as F

from threedgen.errors import UserError

MARKER = "threedgen.json"
CAMERA_NUMBERS = 16


@dataclass(frozen=True)
class ViewTraining:
    """The views a model was trained on, read from the marker file in its folder; plain text-to-image models have none.

    Attributes:
        multiview: whether self-attention runs jointly over consecutive rows that show one object.
        camera: form of the camera embedding; "c2w16" is the flattened camera-to-world matrix with unit-length translation.
        fovy: vertical field of view in degrees.
        distance: of the camera from the origin, in scene radii.
        elevation: lowest and highest, in degrees.
        object_radius: radius of the sphere at the origin the objects fill, in scene radii.
        background: colour behind the object.
    """

    multiview: bool
    camera: str
    fovy: float
    distance: float
    elevation: tuple[float, float]
    object_radius: float
    background: str


def read_marker(folder: Path) -> ViewTraining | None:
    """Marker of a model folder, None without one; UserError where it is damaged."""
    path = folder / MARKER
    if not path.is_file():
        return None
    expected = {f.name for f in fields(ViewTraining)}
    try:
        values = json.loads(path.read_text())
        if set(values) != expected:
            raise ValueError(f"it must hold exactly the keys {', '.join(sorted(expected))}")
        low, high = (float(v) for v in values["elevation"])
        if not isinstance(values["multiview"], bool) or values["camera"] != "c2w16":
            raise ValueError("multiview must be true or false, camera must be 'c2w16'")
        numbers = {name: float(values[name]) for name in ("fovy", "distance", "object_radius")}
    except (ValueError, TypeError) as error:
        raise UserError(f"prior folder {folder}: {MARKER} is damaged: {error}") from error
    return ViewTraining(values["multiview"], values["camera"], elevation=(low, high), background=str(values["background"]), **numbers)


def camera_embedding(c2w: Tensor) -> Tensor:
    """[B,16] row-wise flattened camera-to-world matrices [B,4,4], translation scaled to unit length."""
    position = F.normalize(c2w[:, :3, 3], dim=-1)
    top = torch.cat([c2w[:, :3, :3], position[:, :, None]], -1)
    return torch.cat([top, c2w[:, 3:]], 1).flatten(1)


def camera_numbers(c2w: Tensor | None, rows: int, device: torch.device) -> Tensor:
    """[rows,16] embedding of the cameras [rows,4,4]; zeros where there are none."""
    if c2w is None:
        return torch.zeros(rows, CAMERA_NUMBERS, device=device)
    return camera_embedding(c2w).to(device)


class JointSelfAttention:
    """Attention processor: self-attention over all views of an object at once; cross-attention as ever.

    `views` arrives with every call, so one model serves single views and groups at a time, from several threads.
    """

    def __init__(self) -> None:
        self.plain = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: int = 1,
    ) -> Tensor:
        if encoder_hidden_states is not None or views == 1:
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        rows, tokens, channels = hidden_states.shape
        joint = hidden_states.reshape(rows // views, views * tokens, channels)
        return self.plain(attn, joint, None, attention_mask, temb).reshape(rows, tokens, channels)
