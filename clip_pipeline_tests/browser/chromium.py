"""The Chromium of this machine, and how it is started here."""

import shutil

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
)  # fmt: skip


def find_chromium() -> str | None:
    """Where its program lies; None where there is none."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)
