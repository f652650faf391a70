"""Fixtures that every folder of tests may use; they are written in the modules imported here."""

from clip_pipeline_tests.photos import photo_folder, photos, shared_data

__all__ = ["photo_folder", "photos", "shared_data"]
