"""The text tower against transformers' BertModel with the same weights."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from clip_pipeline.embedding.builtin import TEXT_WEIGHTS, TOKENIZER
from clip_pipeline.embedding.minilm import TextEncoder

TEXTS = [
    "a cat",
    "",
    "A Cup of COFFEE, with milk!",
    "two dogs run over the grass while a man in a red jacket throws a ball",
    "naïve café 東京 🚀",
    "word " * 1000,
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(load_file(TEXT_WEIGHTS.verified()), TOKENIZER.verified(), device=torch.device("cpu"))


def reference(texts: list[str]) -> np.ndarray:
    """One text at a time, mean over tokens, unit length: the model's published use."""
    folder = TEXT_WEIGHTS.locate().parent
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        tokens = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts]
        means = [model(**one).last_hidden_state[0].mean(dim=0).numpy() for one in tokens]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


def test_texts_embed_as_with_transformers_whatever_shares_their_pass(encoder):
    np.testing.assert_allclose(encoder.encode(TEXTS), reference(TEXTS), atol=1e-5)


def test_rows_come_back_in_the_order_of_the_texts(encoder):
    """Texts are sorted by length inside; 150 of them need three passes."""
    texts = [f"{'very ' * (i * 7 % 13)}old house number {i}" for i in range(150)]
    together = encoder.encode(texts)
    chosen = [0, 1, 77, 149]
    np.testing.assert_allclose(together[chosen], [encoder.encode([texts[i]])[0] for i in chosen], atol=1e-5)


def test_a_checkpoint_that_lacks_a_weight_is_refused():
    state = load_file(TEXT_WEIGHTS.verified())
    state.pop("encoder.layer.5.output.LayerNorm.bias")
    with pytest.raises(RuntimeError, match=r"layers\.5\.norm2\.bias"):
        TextEncoder(state, TOKENIZER.verified(), device=torch.device("cpu"))
