"""Submit a folder, watch the job, search: python submit_and_search.py /data/photos "a red bicycle" [URL].

The key, where the service asks for one, comes from the variable CLIP_PIPELINE_API_KEY.
"""

import os
import sys

from clip_pipeline.client import ApiError, Client


def main(folder: str, text: str, url: str = "http://127.0.0.1:8000") -> int:
    """Index all below `folder` and print the five best images for `text`."""
    with Client(url, os.environ.get("CLIP_PIPELINE_API_KEY")) as client:
        submitted = client.add_images(recursive_dirs=[os.path.abspath(folder)])
        print(submitted.job_id, submitted.message)
        job = client.wait(
            submitted.job_id, on_progress=lambda job: print(f"{job.status}: {job.progress.percent_complete} %")
        )
        for image in job.failed:
            print("failed:", image.path, image.reason)
        for hit in client.search(text=text, k=5).results:
            print(f"{hit.score:.3f}  {hit.path}")
    return 0 if job.status == "completed" else 1


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except ApiError as error:
        sys.exit(f"{error} (status {error.status}, request {error.request_id})")
