"""Follow one job to its end with Dagster's GraphQL alone: python graphql_follow_job.py JOB_ID [URL].

URL: of the Dagster UI, http://127.0.0.1:3000 where none is given. The runs that work for a job carry the tag
`clip/job/<job_id>`; what a run did is in its materializations: a batch of images is a partition, its counts are
metadata. A job is done when every batch that holds images is embedded and a merge has put it into the index. A run that
failed is made again after a pause, so a failure is not the end; a run that a person canceled is.
"""

import sys
import time

import httpx

RUNS = """
query JobRuns($tag: String!) {
  runsOrError(filter: {tags: [{key: $tag, value: "1"}]}) {
    __typename
    ... on PythonError { message }
    ... on Runs { results {
      runId jobName status creationTime startTime endTime
      assetMaterializations {
        timestamp partition assetKey { path }
        metadataEntries { label ... on IntMetadataEntry { intValue } }
      }
    } }
  }
}
"""
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
COUNTS = ("images", "duplicates", "failed", "quarantined", "added")
QUIET_S = 20
"""Whatever the job still needs is asked for within this time."""


def main(job_id: str, url: str = "http://127.0.0.1:3000") -> int:
    """Print what happens for the job until it is done; 1 where one of its runs was canceled, or none ever came."""
    told: set[str] = set()
    quiet_since = time.monotonic()
    with httpx.Client(base_url=url, timeout=60) as dagster:
        while True:
            runs = runs_of(dagster, f"clip/job/{job_id}")
            news = [line for line in lines_of(runs) if line not in told]
            if news:
                print(*news, sep="\n", flush=True)
                told.update(news)
                quiet_since = time.monotonic()
            is_quiet = time.monotonic() - quiet_since > QUIET_S
            if all(run["status"] in ENDED for run in runs):
                if is_published(runs, is_quiet=is_quiet):
                    return 0
                if is_quiet and (not runs or runs[-1]["status"] == "CANCELED"):
                    return 1
            time.sleep(1)


def is_published(runs: list[dict], *, is_quiet: bool) -> bool:
    """Whether every batch that holds images is embedded, and a merge came after the last of them."""
    inspected, embedded = materialized(runs, "image_manifest"), materialized(runs, "image_embeddings")
    waiting = {batch for batch, done in inspected.items() if counts_of(done)["images"]} - embedded.keys()
    if waiting or not inspected:
        return False
    last = max((float(done["timestamp"]) / 1000 for done in embedded.values()), default=0.0)
    merges = [run for run in runs if run["jobName"] == "merge_index" and run["status"] == "SUCCESS"]
    # A merge that was under way when the last batch came may lack it: another one follows then, soon.
    return not embedded or any(run["startTime"] > last or (is_quiet and run["endTime"] > last) for run in merges)


def lines_of(runs: list[dict]) -> list[str]:
    """A line for each run and its status, and one for each materialization with its counts."""
    lines = []
    for run in runs:
        lines.append(f"{run['jobName']} {run['runId']} {run['status']}")
        for done in run["assetMaterializations"]:
            counts = ", ".join(f"{name} {number}" for name, number in counts_of(done).items() if name in COUNTS)
            lines.append(f"{' '.join([*done['assetKey']['path'], done['partition'] or 'release'])}: {counts}")
    return lines


def materialized(runs: list[dict], asset: str) -> dict[str, dict]:
    """The newest materialization of each batch of an asset."""
    done = [event for run in runs for event in run["assetMaterializations"] if event["assetKey"]["path"] == [asset]]
    return {event["partition"]: event for event in sorted(done, key=lambda event: float(event["timestamp"]))}


def counts_of(event: dict) -> dict[str, int]:
    """The whole numbers that a materialization carries."""
    return {entry["label"]: entry["intValue"] for entry in event["metadataEntries"] if "intValue" in entry}


def runs_of(dagster: httpx.Client, tag: str) -> list[dict]:
    """The runs that carry the tag, oldest first."""
    answer = dagster.post("/graphql", json={"query": RUNS, "variables": {"tag": tag}}).raise_for_status().json()
    found = answer.get("data") and answer["data"]["runsOrError"]
    if not found or found["__typename"] != "Runs":
        sys.exit(f"refused: {answer}")
    return sorted(found["results"], key=lambda run: run["creationTime"])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
