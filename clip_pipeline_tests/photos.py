"""Real photographs for tests. The fixtures are for the whole session: copy a photograph before changing it."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from clip_pipeline.samples import gather_samples

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of about twenty photographs as JPEG, PNG, WebP and TIFF; read only."""
    folder = tmp_path_factory.mktemp("photos")
    gather_samples(folder)
    return folder


@pytest.fixture(scope="session")
def photos(photo_folder: Path) -> Mapping[str, Path]:
    """The photographs of `photo_folder` by name without suffix: `photos["cat"]`; read only."""
    return {path.stem: path for path in sorted(photo_folder.iterdir())}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `shared/data` beside the repository; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the photographs of {SHARED_DATA}, which are not part of the repository")
    return SHARED_DATA
