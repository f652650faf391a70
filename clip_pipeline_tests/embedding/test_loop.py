"""`embed_batch` with a real decoder in real processes, and with decoders that crash and hang for real."""

import hashlib
import io
import logging
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip_pipeline.core.embeddings import QUARANTINE, ROWS, VECTORS, read_embeddings
from clip_pipeline.core.errors import EncoderUnavailableError, IntegrityError, StoreError
from clip_pipeline.core.keys import BatchKey
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.manifest import Manifest, ManifestRow, write_manifest
from clip_pipeline.core.reasons import ReasonCode
from clip_pipeline.core.store import Store
from clip_pipeline.embedding.decode import load_pixels
from clip_pipeline.embedding.loop import embed_batch
from clip_pipeline.embedding.preprocess import reference_pixels
from clip_pipeline.embedding.ring import PixelRing
from clip_pipeline_tests.fakes import HashEncoder
from clip_pipeline_tests.poison import KINDS, write_poison

BATCH = BatchKey(7)
LIMITS = ImageLimits(timeout_s=3)
FORWARD_BATCH = 8
TINY = HashEncoder().spec.preprocessing


def misbehave(path_text, out, *, sha256, preprocessing, limits):
    """Decode, but for files named after something worse."""
    name = os.path.basename(path_text)
    if name.startswith("segfault"):
        os.kill(os.getpid(), signal.SIGSEGV)
    while name.startswith("hang"):
        time.sleep(1)
    if name.startswith("raise"):
        raise ZeroDivisionError("in a decoder")
    return load_pixels(path_text, out, sha256=sha256, preprocessing=preprocessing, limits=limits)


@pytest.fixture(scope="module")
def ring():
    """One for all tests that can do with it: every opening imports torch in another process."""
    with PixelRing(TINY, limits=LIMITS, forward_batch=FORWARD_BATCH, decode_workers=2, decode=misbehave) as opened:
        yield opened


class Flaky(HashEncoder):
    """Runs out of memory beyond `room` images and for pictures in `too_large`; makes no numbers of those in `lost`."""

    def __init__(self, *, room=1000, too_large=(), lost=()):
        super().__init__()
        self.room, self.too_large, self.lost, self.sizes = room, too_large, lost, []

    def encode_images(self, pixels):
        keys = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]
        if len(pixels) > self.room or set(keys) & set(self.too_large):
            raise MemoryError
        self.sizes.append(len(pixels))
        vectors = super().encode_images(pixels)
        for row, key in enumerate(keys):
            vectors[row] = {0: vectors[row], 1: np.nan, 2: 0.0}[
                ([*self.lost, key].index(key) + 1) % (len(self.lost) + 1)
            ]
        return vectors


def picture(seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC)


def write_pictures(folder, n, *, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (names[i] if names else f"{i:04d}.png") for i in range(n)]
    for i, path in enumerate(paths):
        picture(i).save(path, "PNG")
    return paths


def row(image_id, path):
    data = path.read_bytes()
    return ManifestRow(image_id, hashlib.sha256(data).hexdigest(), str(path), len(data), 1, "PNG", 80, 60, 1)


def manifest_of(store, paths):
    return write_manifest(store, BATCH, [row(100 + i, path) for i, path in enumerate(paths)])


def embed(store, manifest, ring, encoder=None, **options):
    return embed_batch(store, encoder or HashEncoder(), manifest, limits=LIMITS, run_id="run-1", ring=ring, **options)


def published(store, encoder=None):
    return read_embeddings(store, (encoder or HashEncoder()).spec.key, BATCH)


def file_bytes(store):
    folder = store.embeddings_dir(HashEncoder().spec.key, BATCH)
    return {name: (folder / name).read_bytes() for name in (VECTORS, ROWS, QUARANTINE)}


def pixel_key(path):
    pixels = np.zeros((3, 32, 32), np.uint8)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_pixels(str(path), pixels, sha256=digest, preprocessing=TINY, limits=LIMITS) is None
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def test_every_image_gets_the_vector_of_its_pixels_in_the_order_of_the_manifest(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 30)
    result = embed(store, manifest_of(store, paths), ring)
    sealed = published(store)
    expected = HashEncoder().encode_images(np.stack([reference_pixels(Image.open(path), TINY) for path in paths]))
    assert (result.embedded, result.quarantined, result.batch, result.seal) == (30, (), BATCH, sealed.seal)
    assert sealed.rows["image_id"].tolist() == list(range(100, 130))
    assert sealed.rows["path"].tolist() == [str(path) for path in paths]
    assert (sealed.vectors.dtype, sealed.vectors.shape) == (np.float16, (30, 64))
    found = sealed.vectors / np.linalg.norm(sealed.vectors.astype(np.float32), axis=1, keepdims=True)
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_the_result_says_how_it_went(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 20)
    result = embed(store, manifest_of(store, paths), ring)
    assert result.images_per_s == pytest.approx(20 / result.seconds)
    assert 0 < result.forward_s + result.decode_wait_s <= result.seconds
    assert result.forward_batch == FORWARD_BATCH
    assert result.peak_memory_bytes > 10_000_000


def test_one_line_is_logged_with_its_numbers(tmp_path, ring, caplog):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 3)
    with caplog.at_level(logging.INFO, "clip_pipeline"):
        embed(store, manifest_of(store, paths), ring)
    (record,) = caplog.records
    assert (record.message, record.__dict__["batch"], record.__dict__["images"]) == ("batch embedded", "b0000007", 3)


def test_poison_is_quarantined_with_its_reason_and_costs_nothing_else(tmp_path, ring):
    store, good = Store(tmp_path / "store"), write_pictures(tmp_path, 25)
    poison = write_poison(tmp_path / "poison", len(KINDS))
    mixed = sorted([*good, *poison], key=lambda path: hashlib.sha256(path.name.encode()).digest())
    result = embed(store, manifest_of(store, mixed), ring)
    assert result.embedded == 25
    found = {Path(q.row.path): q.reason.code for q in result.quarantined}
    assert found.keys() == poison.keys()
    assert [path.name for path, code in found.items() if code not in poison[path]] == []
    sealed = published(store)
    assert sealed.rows["path"].tolist() == [str(path) for path in mixed if path in set(good)]
    assert sealed.quarantine["reason"].tolist() == [str(q.reason) for q in result.quarantined]


def test_a_decoder_that_crashes_hangs_or_raises_costs_one_image_each(tmp_path, ring):
    names = [f"{i}.png" for i in range(20)]
    names[3], names[4], names[11], names[19] = "segfault.png", "raise.png", "hang.png", "segfault too.png"
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 20, names=names)
    result = embed(store, manifest_of(store, paths), ring)
    assert [(q.row.image_id, str(q.reason)) for q in result.quarantined] == [
        (103, "decoder-crashed: the process died of SIGSEGV"),
        (104, "corrupt: ZeroDivisionError: in a decoder"),
        (111, "decoder-hung: no answer within 3 s"),
        (119, "decoder-crashed: the process died of SIGSEGV"),
    ]
    assert result.embedded == 16


def test_files_that_change_or_vanish_after_the_manifest_are_quarantined(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 4)
    manifest = manifest_of(store, paths)
    picture(99).save(paths[1])
    paths[2].unlink()
    found = embed(store, manifest, ring)
    assert [(q.row.image_id, q.reason.code) for q in found.quarantined] == [
        (101, ReasonCode.CHANGED),
        (102, ReasonCode.MISSING),
    ]


def test_memory_that_runs_out_halves_the_forward_batch_for_good(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 20)
    encoder = Flaky(room=3)
    result = embed(store, manifest_of(store, paths), ring, encoder)
    assert (result.embedded, result.forward_batch) == (20, 2)
    assert encoder.sizes == [2] * 10


def test_an_image_that_fits_not_even_alone_is_quarantined(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 10)
    result = embed(store, manifest_of(store, paths), ring, Flaky(too_large=[pixel_key(paths[5])]))
    assert [(q.row.image_id, q.reason.code) for q in result.quarantined] == [(105, ReasonCode.OUT_OF_MEMORY)]
    assert result.embedded == 9


def test_a_device_without_room_for_any_image_fails_the_run_and_not_the_images(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 5)
    with pytest.raises(EncoderUnavailableError, match="no room"):
        embed(store, manifest_of(store, paths), ring, Flaky(room=0))
    assert store.embedded_batches(HashEncoder().spec.key) == []


def test_vectors_without_a_direction_are_quarantined(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 10)
    encoder = Flaky(lost=[pixel_key(paths[2]), pixel_key(paths[6])])
    result = embed(store, manifest_of(store, paths), ring, encoder)
    assert [(q.row.image_id, str(q.reason)) for q in result.quarantined] == [
        (102, "not-finite: the embedding has length nan"),
        (106, "not-finite: the embedding has length 0.0"),
    ]
    assert result.embedded == 8


def test_an_encoder_whose_vectors_have_another_length_than_it_says_is_refused(tmp_path, ring):
    class Liar(HashEncoder):
        def encode_images(self, pixels):
            return super().encode_images(pixels)[:, :32]

    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 5)
    with pytest.raises(IntegrityError, match="specification"):
        embed(store, manifest_of(store, paths), ring, Liar())


def test_vectors_of_any_length_are_stored_with_length_one(tmp_path, ring):
    class Long(HashEncoder):
        def encode_images(self, pixels):
            return super().encode_images(pixels) * 1000

    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 5)
    embed(store, manifest_of(store, paths), ring, Long())
    assert np.linalg.norm(published(store).vectors.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)


def test_an_empty_manifest_is_sealed_with_zero_rows_and_starts_no_process(tmp_path):
    store, calls = Store(tmp_path / "store"), []
    manifest = manifest_of(store, [])
    result = embed(store, manifest, None, on_progress=lambda *counts: calls.append(counts))
    assert (result.embedded, result.quarantined, published(store).vectors.shape) == (0, (), (0, 64))
    assert calls == [(0, 0)]


def test_a_batch_in_which_everything_fails_is_sealed_with_zero_rows(tmp_path, ring):
    store, poison = Store(tmp_path / "store"), list(write_poison(tmp_path / "poison", 9))
    result = embed(store, manifest_of(store, poison), ring)
    assert (result.embedded, len(result.quarantined)) == (0, 9)
    assert (published(store).vectors.shape, len(published(store).quarantine)) == ((0, 64), 9)


def test_progress_ends_with_all_images_and_all_failures(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 20)
    paths[3].write_bytes(b"")
    calls = []
    embed(store, manifest_of(store, paths), ring, on_progress=lambda *counts: calls.append(counts))
    assert calls[-1] == (20, 1)
    assert calls == sorted(calls)


def test_the_same_files_give_the_same_bytes_whatever_the_workers_and_runs(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 30)
    paths[12].write_bytes(b"no picture")
    manifest = manifest_of(store, paths)
    first, first_bytes = embed(store, manifest, ring), file_bytes(store)
    second = embed_batch(
        store,
        HashEncoder(),
        manifest,
        limits=LIMITS,
        run_id="run-2",
        forward_batch=FORWARD_BATCH,
        decode_workers=1,
    )
    assert file_bytes(store) == first_bytes
    assert second.seal.digest == first.seal.digest
    assert (first.seal.run_id, second.seal.run_id) == ("run-1", "run-2")


def test_embedding_again_replaces_what_was_sealed(tmp_path, ring):
    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 6)
    embed(store, manifest_of(store, paths), ring)
    embed(store, manifest_of(store, paths[:2]), ring)
    assert len(published(store).rows) == 2
    assert sorted(p.name for p in store.embeddings_dir(HashEncoder().spec.key, BATCH).parent.iterdir()) == [str(BATCH)]


def test_a_ring_serves_the_next_batch_after_an_error(tmp_path, ring):
    class Broken(HashEncoder):
        def encode_images(self, pixels):
            raise RuntimeError(f"device lost with {len(pixels)} images")

    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 40)
    manifest = manifest_of(store, paths)
    with pytest.raises(RuntimeError, match="device lost"):
        embed(store, manifest, ring, Broken())
    assert embed(store, manifest, ring).embedded == 40


def test_a_disk_without_space_is_a_store_error_that_leaves_nothing(tmp_path, ring):
    class FillsTheDisk(HashEncoder):
        """From the first forward pass on, no file may grow beyond 1000 bytes: 40 vectors need 5000."""

        def encode_images(self, pixels):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            return super().encode_images(pixels)

    store, paths = Store(tmp_path / "store"), write_pictures(tmp_path, 40)
    manifest = manifest_of(store, paths)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(StoreError, match=r"cannot be written.*Free space"):
            embed(store, manifest, ring, FillsTheDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(store.embeddings_dir(HashEncoder().spec.key, BATCH).parent.iterdir()) == []


def test_memory_does_not_grow_with_the_batch(tmp_path, ring):
    """Peak memory of 300 and of 6000 images: 5700 more vectors take 0.7 MB, and what is written of their rows
    some more; their pixels would take 17 MB."""
    store, (path,) = Store(tmp_path / "store"), write_pictures(tmp_path, 1)
    one = row(0, path)
    peaks = []
    for n in (300, 300, 6000):
        manifest = Manifest(BATCH, "digest", [one] * n)
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what ran before
        assert embed(store, manifest, ring).embedded == n
        status = Path("/proc/self/status").read_text()
        peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
    assert peaks[2] - peaks[1] < 12 * 1024


def test_pixels_of_a_real_photograph_reach_the_encoder_as_the_reference_has_them(tmp_path, photos):
    class Recorder(HashEncoder):
        def __init__(self):
            super().__init__(side=224)
            self.seen = []

        def encode_images(self, pixels):
            self.seen.extend(pixels.copy())
            return super().encode_images(pixels)

    store, encoder = Store(tmp_path / "store"), Recorder()
    path = next(path for path in photos.values() if path.suffix in (".jpg", ".jpeg"))
    embed_batch(store, encoder, manifest_of(store, [path]), limits=ImageLimits(), run_id="r", decode_workers=1)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        expected = reference_pixels(image.convert("RGB"), encoder.spec.preprocessing)
    assert np.abs(encoder.seen[0].astype(int) - expected).mean() <= 0.01
