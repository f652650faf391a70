#!/usr/bin/env bash
# Submit a folder, watch the job, search, with curl alone: submit_and_search.sh /data/photos "a red bicycle" [URL]
# The key, where the service asks for one, comes from the variable CLIP_PIPELINE_API_KEY.
set -euo pipefail

folder=$(realpath "$1") text=$2 url=${3:-http://127.0.0.1:8000}
headers=(-H "Content-Type: application/json")
[ -z "${CLIP_PIPELINE_API_KEY:-}" ] || headers+=(-H "Authorization: Bearer $CLIP_PIPELINE_API_KEY")

ask() { curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused "${headers[@]}" "$@"; }
field() { python3 -c 'import functools, json, sys
print(functools.reduce(lambda part, name: part[name], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"; }

body=$(python3 -c 'import json, sys; print(json.dumps({"recursive_dirs": [sys.argv[1]]}))' "$folder")
# The same key with the same body gives the same job: a request that curl repeats indexes nothing twice.
job=$(ask -H "Idempotency-Key: $(date +%s)-$$" --data "$body" "$url/api/v1/index/add-images" | field job_id)

while :; do
  status=$(ask "$url/api/v1/index/status/$job")
  echo "$job $(field status <<<"$status"): $(field progress.percent_complete <<<"$status") %"
  case $(field status <<<"$status") in completed | failed | canceled) break ;; esac
  sleep 1
done

ask --get --data-urlencode "q=$text" --data "k=5" "$url/api/v1/search" | python3 -m json.tool
[ "$(field status <<<"$status")" = completed ]
