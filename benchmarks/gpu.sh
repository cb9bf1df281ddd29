#!/usr/bin/env bash
# What a first hour with a GPU should find out, in two calls of at most ten minutes each; what finds the most comes first.
#     benchmarks/gpu.sh [FOLDER [PART...]]     the CSV files, the logs and a trace; benchmarks/results by default
# PART is of tests, layer, step, trace and train, and none means all. Needs the package and its test extra; each part runs
# whatever became of the one before, and what a part has measured is kept where its time runs out.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-benchmarks/results}
wanted=" ${*:2} "
mkdir -p "$out"
begun=$SECONDS
part() {
  local limit=$1 name=$2
  shift 2
  [[ $wanted =~ ^\ +$ || $wanted == *" ${name%%_*} "* ]] || return 0
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  echo "$name: exit code $? after $((SECONDS - begun)) s"
  tail -n 3 "$out/$name.log"
}
part 300 tests_cuda python3 -m pytest -m gpu -n "${TESTS_AT_ONCE:-8}" --dist load -p no:cacheprovider
part 120 layer_cuda python3 benchmarks/layer.py --device cuda --shape 128x64x32x32 --seconds 0.3 --out "$out/layer_cuda.csv"
part 60 step_cuda python3 benchmarks/step.py --device cuda --batch-size 128 --seconds 3 --out "$out/step_cuda.csv"
part 60 trace_cuda python3 -m tdbench train --model resnet18 --device cuda --max-steps 60 --torch-profile "$out/trace" --out "$out/traced" --fresh
part 540 train_cuda python3 benchmarks/train.py --device cuda --out "$out/train_cuda.csv"
