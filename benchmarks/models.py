"""CLIP models with random weights as a hub folder holds them. Speed does not depend on the weights' values."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_WORDS = ("a photo of a cat on a mat", "two dogs run over the grass", "a cup of coffee on the table in the morning")


def ensure_vit_b32(folder: Path) -> Path:
    """A CLIP ViT-B/32 of OpenAI's dimensions (88 and 63 million parameters), made where it is missing; 512-d."""
    return _ensure(folder, transformers.CLIPConfig, image_size=224)


def ensure_small_clip(folder: Path) -> Path:
    """A CLIP of two layers for pictures of 64 pixels, made where it is missing; 512-d as ViT-B/32 is."""
    tower = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}

    def config() -> transformers.CLIPConfig:
        vision = tower | {"image_size": 64, "patch_size": 16}
        return transformers.CLIPConfig(text_config=tower, vision_config=vision, projection_dim=512)

    return _ensure(folder, config, image_size=64)


def _ensure(folder: Path, config: Callable[[], transformers.CLIPConfig], *, image_size: int) -> Path:
    if (folder / "complete").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.CLIPModel(config()).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    # Word for word what openai/clip-vit-base-patch32 has: each library reads it as it reads that model.
    preprocessing = {
        "crop_size": image_size, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": _MEAN, "image_std": _STD, "resample": 3,
        "size": image_size,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    (folder / "complete").touch()
    return folder


def _tokenizer() -> transformers.CLIPTokenizer:
    empty = transformers.CLIPTokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer, bpe.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(_WORDS * 20, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges: Any = [tuple(pair) for pair in model["merges"]]
    return transformers.CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=77)
