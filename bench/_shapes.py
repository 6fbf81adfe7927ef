"""Qwen3 models with random weights: the sizes of the real ones, without a download."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config
from transformers.utils import logging


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen3, as its config.json has them.

    longest: tokens of the longest sequence that the bench packs.
    """

    name: str
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocab: int = 151_936
    tied: bool = True
    longest: int = 16_384

    def config(self) -> Qwen3Config:
        return Qwen3Config(
            hidden_size=self.hidden,
            intermediate_size=self.mlp,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab,
            tie_word_embeddings=self.tied,
            max_position_embeddings=40_960,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )

    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config())
        return sum(parameter.numel() for parameter in model.parameters())

    def multiplied(self) -> int:
        """N of the 6N that a trained token costs: not the embedding where it is no head too."""
        return self.parameters() - (0 if self.tied else self.vocab * self.hidden)

    def attention_flops(self, tokens: int) -> float:
        """Of causal attention forward on a sequence: two products over half of its pairs."""
        return 2.0 * tokens**2 * self.heads * self.head_dim * self.layers


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 128, 2, 4, 2, head_dim=16, vocab=307, longest=96),
        Shape("100m", 640, 1920, 17, 10, 2, head_dim=64, vocab=32_768, longest=256),
        Shape("0.6b", 1024, 3072, 28, 16, 8),
        Shape("1.7b", 2048, 6144, 28, 16, 8),
        Shape("4b", 2560, 9728, 36, 32, 8),
        Shape("8b", 4096, 12_288, 36, 32, 8, tied=False),
    )
}


def write_model(shape: Shape, folder: Path, device: torch.device) -> None:
    """A checkpoint in bf16 with random weights, drawn on the device, a shard at a time to disk."""
    logging.disable_progress_bar()
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="2GB")


@contextmanager
def weights(shape: Shape, device: torch.device, scratch: Path | None) -> Iterator[Path]:
    """A checkpoint of the shape, while it is needed; gone afterwards."""
    size = 2 * shape.parameters()
    memory = Path("/dev/shm")
    if scratch is None and memory.is_dir() and shutil.disk_usage(memory).free > 2 * size:
        scratch = memory
    with tempfile.TemporaryDirectory(prefix=f"qwen3-{shape.name}-", dir=scratch) as folder:
        write_model(shape, Path(folder), device)
        gc.collect()
        yield Path(folder)
