"""all-MiniLM-L6-v2 as a plain module: texts to unit-length vectors, float32 [q, 384]. Inference only.

The architecture and its tokenizer belong here; where the files come from is `weights.py`. Written out because
importing transformers takes 3 s on two cores, and every run of the built-in encoder would pay them; a test holds its
output to transformers' BertModel within 1e-5.

Source: Devlin et al. 2019, "BERT", and Reimers and Gurevych 2019, "Sentence-BERT" (mean pooling, section 3).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from clip_pipeline.core.encoder import EmbeddingMatrix
from clip_pipeline.embedding.device import one_core_each

DIM = 384
_HEADS, _LAYERS, _INNER, _VOCABULARY, _POSITIONS = 12, 6, 1536, 30522, 512
_LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 256
"""What the model was trained for (`max_seq_length` of its sentence-transformers configuration)."""
_TEXTS_PER_PASS = 64
# BertModel's name of a module -> its name here; the pooler serves next-sentence prediction and is left out.
_RENAMED = (
    ("embeddings.word_embeddings.", "words."), ("embeddings.position_embeddings.", "positions."),
    ("embeddings.token_type_embeddings.", "types."), ("embeddings.LayerNorm.", "norm."),
    ("encoder.layer.", "layers."), ("attention.self.", ""), ("attention.output.dense.", "mixed."),
    ("attention.output.LayerNorm.", "norm1."), ("intermediate.dense.", "inner."), ("output.dense.", "outer."),
    ("output.LayerNorm.", "norm2."),
)  # fmt: skip
_LEFT_OUT = ("pooler.", "embeddings.position_ids")


class BertLayer(nn.Module):
    """Self-attention and a feed-forward block, each followed by layer normalisation of the sum with its input."""

    def __init__(self) -> None:
        """Shapes are fixed: there is one checkpoint."""
        super().__init__()
        self.query, self.key, self.value, self.mixed = (nn.Linear(DIM, DIM) for _ in range(4))
        self.norm1 = nn.LayerNorm(DIM, eps=_LAYER_NORM_EPS)
        self.inner, self.outer = nn.Linear(DIM, _INNER), nn.Linear(_INNER, DIM)
        self.norm2 = nn.LayerNorm(DIM, eps=_LAYER_NORM_EPS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: float [q, tokens, 384]; mask: bool [q, 1, 1, tokens], True where there is a token."""
        split = (*x.shape[:2], _HEADS, DIM // _HEADS)
        query, key, value = (part(x).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.norm1(x + self.mixed(attended.transpose(1, 2).flatten(2)))
        return self.norm2(x + self.outer(functional.gelu(self.inner(x))))


class MiniLM(nn.Module):
    """Token ids to one vector a text: the mean of its tokens' last hidden states."""

    def __init__(self) -> None:
        """Shapes are fixed: there is one checkpoint."""
        super().__init__()
        self.words, self.positions = nn.Embedding(_VOCABULARY, DIM), nn.Embedding(_POSITIONS, DIM)
        self.types = nn.Embedding(2, DIM)
        self.norm = nn.LayerNorm(DIM, eps=_LAYER_NORM_EPS)
        self.layers = nn.ModuleList(BertLayer() for _ in range(_LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: int64 [q, tokens]; mask: bool [q, tokens]. Returns float [q, 384], not yet of unit length."""
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + self.types.weight[0])
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :])
        weights = mask.unsqueeze(-1).to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


class TextEncoder:
    """MiniLM with its tokenizer on one device."""

    def __init__(self, state: Mapping[str, Tensor], tokenizer_file: Path, *, device: torch.device) -> None:
        """`state` is BertModel's.

        Raises:
            RuntimeError: a weight is missing, unexpected or of another shape.
        """
        # Not on the meta device: initialising there imports 800 modules of torch, 1.2 s against 0.2 s for real.
        model = MiniLM()
        # Copied: a mapped file that a reinstallation cuts short would kill the process at its next access.
        own = {_own_name(n): t.to(torch.float32, copy=True) for n, t in state.items() if not n.startswith(_LEFT_OUT)}
        model.load_state_dict(own, strict=True, assign=True)
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()  # to the longest of a pass; the file asks for 128 always

    def encode(self, texts: Sequence[str]) -> EmbeddingMatrix:
        """Embeddings, float32 [q, 384], unit length. Texts longer than `MAX_TOKENS` are cut."""
        vectors = np.empty((len(texts), DIM), np.float32)
        # Texts of like length share a pass, so that little of it is padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        passes = [order[start : start + _TEXTS_PER_PASS] for start in range(0, len(texts), _TEXTS_PER_PASS)]
        for chosen, encoded in zip(passes, self._all_passes([[texts[i] for i in p] for p in passes]), strict=True):
            vectors[chosen] = encoded
        return vectors

    def _all_passes(self, passes: list[list[str]]) -> list[EmbeddingMatrix]:
        if self._device.type != "cpu":
            return [self._encode_pass(texts) for texts in passes]
        return one_core_each(self._encode_pass, passes)

    @torch.inference_mode()
    def _encode_pass(self, texts: list[str]) -> EmbeddingMatrix:
        tokenized = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([t.ids for t in tokenized], device=self._device)
        mask = torch.tensor([t.attention_mask for t in tokenized], device=self._device).bool()
        return functional.normalize(self._model(ids, mask), dim=1).cpu().numpy()


def _own_name(name: str) -> str:
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
