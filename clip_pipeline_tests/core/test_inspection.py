"""Facts about image files, and the reasons where there are none."""

import errno
import hashlib
import io
import os
import struct
import warnings
import zlib

import pillow_heif
import pytest
from PIL import Image

from clip_pipeline.core import image_file
from clip_pipeline.core.inspection import Inspected, inspect_file, inspect_files, reason_of
from clip_pipeline.core.isolation import Crash, Error, Hang
from clip_pipeline.core.limits import ImageLimits
from clip_pipeline.core.paths import path_to_text
from clip_pipeline.core.reasons import Reason, ReasonCode
from clip_pipeline_tests.poison import KINDS, write_poison

LIMITS = ImageLimits(timeout_s=30)
ORIENTATION = 0x0112


def picture(size=(60, 40)):
    return Image.linear_gradient("L").resize(size).convert("RGB")


def encoded(kind, image=None, **options):
    stream = io.BytesIO()
    image = image or picture()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(stream, **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def inspected(path, limits=LIMITS):
    found = inspect_file(path_to_text(path), limits)
    assert isinstance(found, Inspected), found
    return found


def code(path, limits=LIMITS):
    found = inspect_file(path_to_text(path), limits)
    assert isinstance(found, Reason), found
    return found.code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_every_supported_format_is_known_by_its_content_and_not_its_name(tmp_path, kind):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(kind))
    assert inspected(path) == Inspected(
        path=str(path),
        size_bytes=path.stat().st_size,
        mtime_ns=path.stat().st_mtime_ns,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        format=kind,
        width=60,
        height=40,
        orientation=1,
    )


def test_a_picture_of_several_frames_from_a_camera_counts_as_jpeg(tmp_path):
    path = tmp_path / "stereo.mpo"
    picture().save(path, "MPO", save_all=True, append_images=[picture((30, 20))])
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert (inspected(path).format, inspected(path).width) == ("JPEG", 60)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_width_and_height_are_those_that_a_person_sees(tmp_path, kind, orientation):
    path = tmp_path / "turned"
    path.write_bytes(encoded(kind, exif=exif(orientation)))
    found = inspected(path)
    assert (found.width, found.height) == ((60, 40) if orientation < 5 else (40, 60))
    assert found.orientation == orientation


def test_the_orientation_of_a_png_is_found_behind_its_pixels(tmp_path):
    data, tags = encoded("PNG"), exif(6).tobytes()[6:]
    chunk = struct.pack(">I", len(tags)) + b"eXIf" + tags + struct.pack(">I", zlib.crc32(b"eXIf" + tags))
    path = tmp_path / "late.png"
    path.write_bytes(data[:-12] + chunk + data[-12:])
    assert (inspected(path).width, inspected(path).height, inspected(path).orientation) == (40, 60, 6)


def test_broken_exif_counts_as_none(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage"))
    assert inspected(path).orientation == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(tmp_path, value):
    path = tmp_path / "odd.jpg"
    path.write_bytes(encoded("JPEG", exif=exif(value)))
    assert inspected(path).orientation == 1


def test_pixels_are_not_decoded(tmp_path):
    """`PngImageFile.getexif` decodes the whole picture; a cut one would fail here, a large one take seconds."""
    path = tmp_path / "cut.png"
    path.write_bytes(encoded("PNG", Image.effect_noise((300, 200), 80))[:2000])
    assert (inspected(path).width, inspected(path).height) == (300, 200)


def test_poison_is_refused_for_the_expected_reason_or_left_to_the_decoder(tmp_path):
    for path, reasons in write_poison(tmp_path, len(KINDS)).items():
        found = inspect_file(str(path), LIMITS)
        if isinstance(found, Reason):
            assert found.code in reasons, (path.name, found)
        else:
            assert reasons <= {ReasonCode.TRUNCATED, ReasonCode.CORRUPT}, path.name


def test_what_is_not_a_regular_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert code(tmp_path / "pipe") is ReasonCode.NOT_A_FILE
    assert code(tmp_path) is ReasonCode.NOT_A_FILE
    assert code("/dev/zero") is ReasonCode.NOT_A_FILE


def test_a_file_that_is_not_there_is_missing(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert {code(tmp_path / name) for name in ("gone.jpg", "file/below.jpg", "dangling")} == {ReasonCode.MISSING}


def test_paths_that_the_system_refuses_are_unreadable(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert {code(tmp_path / name) for name in ("loop", "n" * 300, "null\0byte")} == {ReasonCode.UNREADABLE}


def test_a_read_error_is_unreadable(tmp_path, monkeypatch):
    def fail(path, _size):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    path = tmp_path / "on a bad disk.png"
    path.write_bytes(encoded("PNG"))
    monkeypatch.setattr(image_file, "_read", fail)
    assert inspect_file(str(path), LIMITS) == Reason(ReasonCode.UNREADABLE, "Input/output error")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_unreadable(tmp_path):
    path = tmp_path / "private.png"
    path.write_bytes(encoded("PNG"))
    path.chmod(0)
    assert code(path) is ReasonCode.UNREADABLE


@pytest.mark.parametrize(
    ("meddle", "expected"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), ReasonCode.CHANGED),
        (lambda path: os.utime(path, ns=(1, 1)), ReasonCode.CHANGED),
        (lambda path: os.replace(path.with_name("other"), path), ReasonCode.CHANGED),
        (lambda path: path.unlink(), ReasonCode.MISSING),
    ],
)
def test_a_file_that_changes_while_it_is_read_is_not_believed(tmp_path, monkeypatch, meddle, expected):
    path, read = tmp_path / "busy.png", image_file._read
    path.write_bytes(encoded("PNG"))
    path.with_name("other").write_bytes(encoded("PNG"))

    def read_and_meddle(name, size):
        data = read(name, size)
        meddle(path)
        return data

    monkeypatch.setattr(image_file, "_read", read_and_meddle)
    assert code(path) is expected


def test_limits_are_the_last_that_pass(tmp_path):
    path = tmp_path / "limit.png"
    path.write_bytes(encoded("PNG"))
    size = path.stat().st_size
    assert inspected(path, ImageLimits(max_bytes=size, max_pixels=2400)).width == 60
    assert code(path, ImageLimits(max_bytes=size - 1)) is ReasonCode.TOO_MANY_BYTES
    assert code(path, ImageLimits(max_pixels=2399)) is ReasonCode.TOO_MANY_PIXELS


def test_pillows_own_limit_and_warnings_neither_decide_nor_change(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "large for Pillow.png"
    path.write_bytes(encoded("PNG"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert inspected(path).width == 60
    assert (caught, Image.MAX_IMAGE_PIXELS) == ([], 10)


def test_files_of_any_name_are_inspected_in_isolation_and_progress_counts_them(tmp_path):
    names = [b"plain.png", b"with space.png", b"new\nline.png", b"not utf-8 \xff\xfe.png", b"n" * 251 + b".png"]
    for i, name in enumerate(names):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(encoded("PNG", picture((10 + i, 10))))
    paths = [path_to_text(os.path.join(os.fsencode(tmp_path), name)) for name in names]
    seen: list[int] = []
    found = dict(inspect_files([*paths, str(tmp_path / "gone")], limits=LIMITS, workers=2, on_progress=seen.append))
    assert isinstance(found.pop(5), Reason)
    widths = {i: (f.width, f.path) for i, f in found.items() if isinstance(f, Inspected)}
    assert widths == {i: (10 + i, path) for i, path in enumerate(paths)}
    assert seen == [1, 2, 3, 4, 5, 6]


def test_what_happens_to_a_worker_has_its_reason():
    assert str(reason_of(Crash(11))) == "decoder-crashed: the process died of SIGSEGV"
    assert str(reason_of(Hang(60.0))) == "decoder-hung: no answer within 60 s"
    assert reason_of(Error("MemoryError", "")).code is ReasonCode.OUT_OF_MEMORY
    assert str(reason_of(Error("ValueError", "odd"))) == "corrupt: ValueError: odd"
