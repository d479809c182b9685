"""Cross-attention that is also pushed away from a negative prompt and drawn towards an image prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from threedgen.priors.views import JointSelfAttention


class ConditionedAttention(JointSelfAttention):
    """Attention processor: joint self-attention over views, and cross-attention Z_text - a Z_negative + b Z_image, each [B,Q,C].

    All three have the same queries. Z_negative has the text's key and value projections (NASA, arXiv 2412.02687), Z_image has its own
    (IP-Adapter, arXiv 2308.06721). The sum goes through the layer's output projection once, so its bias counts once. What is
    conditioned on arrives with every call; a and b are numbers a row, and 0 is exactly the attention without them.
    """

    def __init__(self, image_key: Tensor | None = None, image_value: Tensor | None = None) -> None:
        """
        Args:
            image_key, image_value: [C,D] projections of image tokens, of a cross-attention layer of a model with an image adapter.
        """
        super().__init__()
        self.image_key, self.image_value = image_key, image_value

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        views: int = 1,
        negative: Tensor | None = None,
        negative_scale: Tensor | None = None,
        image: Tensor | None = None,
        image_scale: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is None or (negative is None and image is None):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, views)
        query = attn.to_q(hidden_states)
        found = attended(attn, query, *self.of_text(attn, encoder_hidden_states))
        if negative is not None and negative_scale is not None:
            found = found - negative_scale[:, None, None] * attended(attn, query, *self.of_text(attn, negative))
        if image is not None and image_scale is not None and self.image_key is not None and self.image_value is not None:
            key, value = F.linear(image, self.image_key), F.linear(image, self.image_value)
            found = found + image_scale[:, None, None] * attended(attn, query, key, value)
        out = attn.to_out[1](attn.to_out[0](found))
        return (out + hidden_states if attn.residual_connection else out) / attn.rescale_output_factor

    def of_text(self, attn: Any, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B,T,C] of text embeddings [B,T,D]."""
        text = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
        return attn.to_k(text), attn.to_v(text)


def attended(attn: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B,Q,C] softmax attention in the layer's heads, before its output projection."""
    q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
