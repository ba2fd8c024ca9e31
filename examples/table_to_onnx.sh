#!/usr/bin/env bash
# From a CSV file to a student that runs without limbeck: examples/table_to_onnx.sh FILE.csv LABEL FOLDER [key=value ...]
# Everything is written into FOLDER: the recipe, the run with its page, and the exported student.
set -euo pipefail
table=$(realpath "$1") label=$2
mkdir -p "$3" && cd "$3"
limbeck init recipe.yaml --data "$table" --label "$label"
limbeck distill recipe.yaml --runs runs "${@:4}"
limbeck export runs/recipe/* --to onnx --out student
limbeck predict student "$table" | head -3
