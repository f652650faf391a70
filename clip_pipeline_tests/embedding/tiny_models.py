"""Small CLIP and SigLIP models with random weights, real tokenizers and image processors, as a hub folder holds them.

They say nothing about accuracy: they are there to be compared with transformers' own processor and model.
"""

import json
from pathlib import Path

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIDE = 64
CONTEXT = 16
TEXTS = [
    "a photo of a cat",
    "a cup of coffee on the table",
    "A Rocket Launch, at night!",
    "an astronaut in a suit, two dogs that run over the grass and a motorcycle parked in a garage behind the house",
    "",
]
_TOWER = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION = _TOWER | {"hidden_size": 64, "image_size": SIDE, "patch_size": 16}
_TEXT = _TOWER | {"hidden_size": 64, "max_position_embeddings": CONTEXT}


def save_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP of 32 dimensions, its byte-level BPE tokenizer and its image processor."""
    tokenizer = _clip_tokenizer()
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = transformers.CLIPConfig(
        text_config=_TEXT | special | {"vocab_size": len(tokenizer)}, vision_config=_VISION, projection_dim=32
    )
    return _save(transformers.CLIPModel, config, folder, seed=seed)


def save_tiny_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP of 64 dimensions, its SentencePiece tokenizer and its image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS * 20), model_writer=file, vocab_size=48, minloglevel=2, pad_id=0, eos_id=1,
            unk_id=2, bos_id=-1,
        )  # fmt: skip
    tokenizer = transformers.SiglipTokenizer(
        str(folder / "spiece.model"), model_max_length=CONTEXT, model_input_names=["input_ids"]
    )
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    config = transformers.SiglipConfig(text_config=_TEXT | {"vocab_size": len(tokenizer)}, vision_config=_VISION)
    return _save(transformers.SiglipModel, config, folder, seed=seed)


def rewrite_json(path: Path, **changes: object) -> None:
    """Change top-level fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _save(model_class: type, config: transformers.PretrainedConfig, folder: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    model = model_class(config)
    # As initialised, every input comes out nearly alike, and a comparison of directions would see nothing.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    transformers.utils.logging.enable_progress_bar()
    return folder


def _clip_tokenizer() -> transformers.CLIPTokenizer:
    empty = transformers.CLIPTokenizer().backend_tokenizer
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer, bpe.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<|startoftext|>", "<|endoftext|>"], end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    bpe.train_from_iterator(TEXTS * 20, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges: list = [tuple(pair) for pair in model["merges"]]
    return transformers.CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CONTEXT)
