"""Send one image in and ask until there is a result: python analyze_image.py photo.jpg "cat,dog,bicycle" [URL].

Labels may be empty: then the label set in use counts. The key, where the service asks for one, comes from the variable
CLIP_PIPELINE_API_KEY.
"""

import os
import sys
import time
from pathlib import Path

import httpx


def main(image: str, labels: str = "", url: str = "http://127.0.0.1:8000") -> int:
    """Print the five best labels with their confidences; 1 where the image could not be analyzed."""
    key = os.environ.get("CLIP_PIPELINE_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=60) as service, Path(image).open("rb") as file:
        fields = {"top_k": "5"} | ({"labels": labels} if labels else {})
        submitted = service.post("/analyze-image", files={"file": (Path(image).name, file)}, data=fields)
        submitted.raise_for_status()
        request_id = submitted.json()["request_id"]
        print(request_id, submitted.json()["status"])
        # From here on the request is on disk: this program may end, and another one ask for the result.
        while (answer := service.get(f"/result/{request_id}")).status_code == 202:
            time.sleep(0.2)
    result = answer.json()
    if answer.status_code != 200:
        print("failed:", result["detail"])
        return 1
    for prediction in result["predictions"]:
        print(f"{prediction['confidence']:.3f}  {prediction['label']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
