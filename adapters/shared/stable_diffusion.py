"""Sizes of the networks that painters of views were tuned from, Stable Diffusion 2 and CLIP ViT-H, where these are
drawn at random; and the tokens of no words.

Runs inside the environments of the systems under test: torch, Python 3.9 syntax.
"""

from __future__ import annotations

import types
from typing import Any

VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "sample_size": 768,
}  # fmt: skip
TEXT: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
                        "num_attention_heads": 16, "projection_dim": 512, "hidden_act": "gelu"}  # fmt: skip
VISION: dict[str, Any] = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                          "num_attention_heads": 16, "patch_size": 14, "projection_dim": 1024}  # fmt: skip


class NoWords:
    """In the place of the tokenizer, of which nothing but the tokens of no words is asked, where a network is drawn at
    random."""

    model_max_length = 77

    def __init__(self) -> None:
        self.added_tokens_encoder: dict[str, int] = {}

    def __call__(self, text: Any, padding: str = "", **_: Any) -> Any:
        """Beginning and end of a text, and padding."""
        import torch

        padded = [49406, 49407] + [0] * 75
        rows = [padded if padding == "max_length" else padded[:2]] * (1 if isinstance(text, str) else len(text))
        return types.SimpleNamespace(input_ids=torch.tensor(rows))

    def batch_decode(self, ids: Any) -> list[str]:
        """Nothing is said."""
        return [""] * len(ids)

    def tokenize(self, text: str) -> list[str]:
        """No word of no text."""
        return []
