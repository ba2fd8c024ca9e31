#!/usr/bin/env bash
# Fetches onnxruntime-web beside the page and exports both networks of a run of digits: fetch.sh RUN
set -euo pipefail
run=$(realpath "${1:?usage: fetch.sh RUN}")
cd "$(dirname "$0")"
npm install --no-save --no-package-lock onnxruntime-web@1.30.0
limbeck export "$run" --role teacher --to onnx --out teacher
limbeck export "$run" --role distilled --to onnx --out student
echo "now: python -m http.server --directory $PWD, and open http://localhost:8000"
