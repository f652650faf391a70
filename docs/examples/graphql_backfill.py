"""Embed batches again and follow a job with Dagster's GraphQL alone: python graphql_backfill.py JOB_ID BATCH... [URL].

URL: of the Dagster UI, http://127.0.0.1:3000 where none is given. A batch is a partition, such as b0000001; the runs of
a job carry the tag `clip/job/<job_id>`.
"""

import sys
import time

import httpx

BACKFILL = """
mutation Backfill($batches: [String!]!, $tags: [ExecutionTag!]!) {
  launchPartitionBackfill(backfillParams: {
    selector: {partitionSetName: "embed_images_partition_set",
               repositorySelector: {repositoryName: "__repository__", repositoryLocationName: "gpu"}},
    partitionNames: $batches, tags: $tags
  }) { __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } }
}
"""
RUNS = """
query JobRuns($tag: String!) {
  runsOrError(filter: {tags: [{key: $tag, value: "1"}]}) {
    __typename ... on Runs { results { runId jobName status } } ... on PythonError { message }
  }
}
"""
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


def main(job_id: str, *batches: str) -> int:
    """Launch the backfill under the tag of the job; return when every run of the job has ended."""
    url = batches[-1] if batches[-1].startswith("http") else "http://127.0.0.1:3000"
    tag = f"clip/job/{job_id}"
    with httpx.Client(base_url=url, timeout=60) as dagster:
        known = {run["runId"] for run in runs_of(dagster, tag)}
        wanted = [batch for batch in batches if batch != url]
        launched = ask(dagster, BACKFILL, batches=wanted, tags=[{"key": tag, "value": "1"}])["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            sys.exit(f"not launched: {launched}")
        print("backfill", launched["backfillId"])
        while True:
            runs = [run for run in runs_of(dagster, tag) if run["runId"] not in known]
            print(*(f"{run['jobName']} {run['status']}" for run in runs), sep=", ")
            if runs and all(run["status"] in ENDED for run in runs):
                return 0 if all(run["status"] == "SUCCESS" for run in runs) else 1
            time.sleep(1)


def runs_of(dagster: httpx.Client, tag: str) -> list[dict[str, str]]:
    """The runs that carry the tag."""
    return ask(dagster, RUNS, tag=tag)["runsOrError"]["results"]


def ask(dagster: httpx.Client, query: str, **variables: object) -> dict:
    """The data of one answer; ends the program where there is none."""
    answer = dagster.post("/graphql", json={"query": query, "variables": variables}).raise_for_status().json()
    return answer["data"] if "errors" not in answer else sys.exit(f"refused: {answer['errors']}")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
