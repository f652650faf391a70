"""Send one image in and be told of each change: python analyze_image_push.py photo.jpg "cat,dog,bicycle" [URL].

Needs the packages httpx and websockets. The key, where the service asks for one, comes from the variable
CLIP_PIPELINE_API_KEY.
"""

import json
import os
import sys
from pathlib import Path

import httpx
from websockets.sync.client import connect


def main(image: str, labels: str = "", url: str = "http://127.0.0.1:8000") -> int:
    """Print each state of the request as it is told, then the best labels; 1 where it failed."""
    key = os.environ.get("CLIP_PIPELINE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    fields = {"top_k": "5"} | ({"labels": labels} if labels else {})
    with Path(image).open("rb") as file:
        submitted = httpx.post(
            f"{url}/analyze-image", files={"file": (Path(image).name, file)}, data=fields, headers=headers, timeout=60
        )
    submitted.raise_for_status()
    told: dict = submitted.json()
    address = url.replace("http", "ws", 1) + told["links"]["push"]
    # The current state comes at once, then each change; the service closes the connection after the last one.
    with connect(address, additional_headers=headers) as socket:
        for message in socket:
            told = json.loads(message)
            print(told["request_id"], told["status"])
    for prediction in told.get("predictions", []):
        print(f"{prediction['confidence']:.3f}  {prediction['label']}")
    return 0 if told["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
