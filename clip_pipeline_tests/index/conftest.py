"""One fixture for the tests of the index: an empty corpus."""

import pytest

from clip_pipeline_tests.index.sealing import Corpus


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path / "store")
