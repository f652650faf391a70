#!/usr/bin/env bash
# Send one image in and wait for its labels, with curl alone: analyze_image.sh photo.jpg "cat,dog,bicycle" [URL]
# The key, where the service asks for one, comes from the variable CLIP_PIPELINE_API_KEY.
set -euo pipefail

image=$1 labels=${2:-} url=${3:-http://127.0.0.1:8000}
headers=()
[ -z "${CLIP_PIPELINE_API_KEY:-}" ] || headers+=(-H "Authorization: Bearer $CLIP_PIPELINE_API_KEY")

ask() { curl --silent --show-error --fail-with-body --retry 5 --retry-connrefused "${headers[@]}" "$@"; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

form=(--form "file=@\"$image\"" --form top_k=5)
[ -z "$labels" ] || form+=(--form-string "labels=$labels")
# The same key with the same image gives the same request: one that curl repeats is not analyzed twice.
request=$(ask -H "Idempotency-Key: $(date +%s)-$$" "${form[@]}" "$url/analyze-image" | field request_id)

# Each question waits for up to 20 seconds; a failed image is answered with a problem document, which ends the script.
while :; do
  result=$(ask "$url/result/$request?wait=20") || { echo "$result" >&2; exit 1; }
  [ "$(field status <<<"$result")" != completed ] || break
done
python3 -m json.tool <<<"$result"
