"""Images of meshes whose pixels at outlines mix both sides, so that they change smoothly as the mesh moves."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from threedgen.ops._checks import check_floating, check_shape
from threedgen.ops.adjacency import adjacent_edges
from threedgen.ops.silhouettes import silhouettes


def antialias(color: Tensor, clip: Tensor, faces: Tensor, face: Tensor, adjacency: Tensor | None = None) -> Tensor:
    """Blends pixels over the outlines that pass between them (Laine et al. 2020, arXiv 2011.03277).

    An outline that lies beyond the border between two pixels by a share s of a pixel gives this share of the second one to the first;
    see `silhouettes`. Where the neighbours of a pixel claim more than all of it, their shares are scaled down to 1. Differentiable once,
    in `color` and in `clip`: what is behind an outline is taken to be what the neighbour shows.

    Args:
        color: [B,H,W,C] values at the pixels of `face`, background included.
        clip: [B,V,4] positions in clip space, dtype of `color`.
        faces: [F,3] int64 vertex indices.
        face: [B,H,W] int64 as from `rasterize`, -1 where there is none.
        adjacency: [F,3] as from `adjacent_edges`, found from `faces` where left out; needed where vertices are doubled along seams.

    Returns:
        [B,H,W,C].

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or an index points nowhere.
    """
    check_floating(color=color, clip=clip)
    check_shape("color", color, *face.shape, None)
    return blend(color, silhouettes(clip, faces, face, adjacent_edges(faces) if adjacency is None else adjacency))


def blend(color: Tensor, shift: Tensor) -> Tensor:
    """Pixels [B,H,W,C] that share their area as outlines [B,H,W,2] from `silhouettes` say."""
    across, down = shift[:, :, :-1, :1], shift[:, :-1, :, 1:]
    # row r, column c: what is left, right, above and below, and how much of the pixel it takes
    left, right = F.pad(color[:, :, :-1], (0, 0, 1, 0)), F.pad(color[:, :, 1:], (0, 0, 0, 1))
    above, below = F.pad(color[:, :-1], (0, 0, 0, 0, 1, 0)), F.pad(color[:, 1:], (0, 0, 0, 0, 0, 1))
    from_left, from_right = F.pad(positive(across), (0, 0, 1, 0)), F.pad(positive(-across), (0, 0, 0, 1))
    from_above, from_below = F.pad(positive(down), (0, 0, 0, 0, 1, 0)), F.pad(positive(-down), (0, 0, 0, 0, 0, 1))
    taken = from_left + from_right + from_above + from_below
    change = from_left * (left - color) + from_right * (right - color) + from_above * (above - color) + from_below * (below - color)
    return color + change / taken.clamp_min(1)


def positive(shift: Tensor) -> Tensor:
    """max(shift, 0) with the derivative 1/2 at 0: an outline on the border of two pixels teaches each of them half."""
    return (shift + shift.abs()) / 2
