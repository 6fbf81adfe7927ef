#!/usr/bin/env bash
# One visit to a GPU, for a machine without network: correctness, speed, memory, training.
#
#   bench/gpu/run.sh                   every part, in the order of their worth, at most SECONDS_IN_ALL
#   bench/gpu/run.sh parts train       these parts alone
#   bench/gpu/run.sh --smoke           tiny sizes on a CPU: does every part still run?
#
# Parts: selftest tests parts loss policy train ranks rivals miniature memory
# Environment: OUT = folder for rows and log (gpu-out), PYTHON = interpreter (python3), SECONDS_IN_ALL (480).
#
# Each part writes its rows to $OUT/*.jsonl before the next begins, so a visit that is cut off keeps what it has. A part that
# fails or takes too long costs no other. At the end stands what failed and the command that repeats it; then the exit code is 1.
# Wheels in .whl (bench/gpu/fetch.sh) are unpacked for this visit alone.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PARTS=(selftest tests parts loss policy train ranks rivals miniature memory)
python=${PYTHON:-python3}
out=${OUT:-gpu-out}
in_all=${SECONDS_IN_ALL:-480}
smoke=
chosen=()
for word in "$@"; do
    case " ${PARTS[*]} " in
        *" $word "*) chosen+=("$word") ;;
        *)
            [[ $word == --smoke ]] && smoke=--smoke && continue
            echo "error: no part '$word'; there are: ${PARTS[*]}, and --smoke" >&2
            exit 2
            ;;
    esac
done
[[ -z $smoke ]] || in_all=${SECONDS_IN_ALL:-3600}
((${#chosen[@]})) || chosen=("${PARTS[@]}")

mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
path=$PWD/python
if [[ -z $smoke ]] && compgen -G '.whl/*.whl' >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$scratch/site" .whl/*.whl ||
        { echo 'error: the wheels in .whl do not fit this Python; fetch them again: bench/gpu/fetch.sh' >&2; exit 1; }
    path=$path:$scratch/site
fi
# The trainer's Rust extension; the parts that only know the kernels need none.
[[ -e python/exprl/_core.abi3.so || ! -e .whl/_core.abi3.so ]] || cp .whl/_core.abi3.so python/exprl/
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}

# Longest seconds of a part. A rehearsal may be on a slow machine.
limit() {
    case ${smoke:-$1} in
        --smoke) echo 600 ;;
        selftest) echo 60 ;;
        tests) echo 150 ;;
        parts) echo 90 ;;
        loss) echo 60 ;;
        policy) echo 60 ;;
        train) echo 170 ;;
        ranks) echo 120 ;;
        rivals) echo 170 ;;
        miniature) echo 100 ;;
        memory) echo 60 ;;
    esac
}

part_selftest() {
    "$python" -m exprl_kernels selftest
}

part_tests() { # the compiler for sm_90 needs no GPU, so that file is left to CI
    tested 8 tests/kernels --deselect tests/kernels/test_compile_sm90.py
}

part_parts() {
    "$python" bench/gpu/head_parts.py $smoke --results "$out/parts.jsonl"
}

part_loss() {
    local words='products,exprl,a copy'
    [[ $smoke ]] && words='products,exprl linear' # Triton's interpreter takes seconds for the others
    "$python" bench/loss.py ${smoke:---shapes 4b} $smoke --only "$words" --results "$out/loss.jsonl" --repeats "$(sized 10 1)"
}

part_policy() {
    tested 4 tests/unit/learn/test_{attention,head,lora,master,model,optimizer,policy}.py
}

part_train() {
    if [[ $smoke ]]; then
        train --smoke --kl 0.001 --ranks 8 --optimizers adamw8bit --repeats 1
        return
    fi
    local failed=0
    train --shapes 0.6b --kl 0,0.001 --rollouts 8 --repeats 1 || failed=1
    train --shapes 4b --kl 0.001,0 --ranks 0,32 --optimizers adamw8bit --rollouts 4 --repeats 1 || failed=1
    return $failed
}

part_ranks() {
    local one=()
    [[ $smoke ]] && one=(--settings 'lora 32, adamw')
    "$python" bench/ranks.py $smoke --results "$out/ranks.jsonl" --rollouts 4 "${one[@]}"
}

part_rivals() {
    local words='products,linear_grpo,torch,Liger,Apple,quack'
    [[ $smoke ]] && words='torch' # tests/kernels/test_bench_loss.py has all of them
    "$python" bench/loss.py ${smoke:---shapes 4b} $smoke --only "$words" \
        --results "$out/loss.jsonl" --repeats "$(sized 5 1)"
}

part_miniature() {
    local run=$scratch/miniature code=0 tiny=()
    [[ $smoke ]] && tiny=(train.steps=1 rollout.problems_per_step=2 rollout.group_size=4 eval.samples=2 eval.data.limit=4)
    "$python" -c 'from exprl.cli import main; main()' train configs/division_process.toml "run_dir=$run" \
        rollout.engine=transformers eval.samples=16 "${tiny[@]}" || code=1
    cp "$run/metrics.jsonl" "$out/miniature.jsonl" && cp "$run/eval.jsonl" "$out/miniature_eval.jsonl" || code=1
    [[ $smoke ]] && return $code
    "$python" - "$run/eval.jsonl" <<'CHECK' || code=1
import json, sys
first, *_, last = (json.loads(line)["pass_at"]["1"]["value"] for line in open(sys.argv[1]))
print(f"pass@1 on held-out problems: {first:.3f}, after training {last:.3f}; at least 0.4 is asked for")
sys.exit(not last >= 0.4)
CHECK
    return $code
}

part_memory() {
    if [[ $smoke ]]; then
        train --smoke --kl 0 --repeats 1 --check-memory
    else
        train --shapes 1.7b --kl 0 --recomputed 0.5,1 --micro-batch-tokens 32768 --rollouts 4 --repeats 1 --check-memory
    fi
}

tested() { # workers, then what to test; CI runs these tests, so that a smoke run only finds them
    "$python" -m pytest -q -p no:cacheprovider $(sized "-n $1" '--collect-only') "${@:2}"
}

train() {
    "$python" bench/train_step.py --results "$out/train.jsonl" "$@"
}

sized() { # what a visit takes, and what a smoke run takes
    [[ $smoke ]] && echo "$2" || echo "$1"
}

run_part() {
    local part=$1 start=$SECONDS longest left code note=ok
    longest=$(limit "$part")
    left=$((in_all - SECONDS))
    ((left < longest)) && longest=$left
    if ((longest < 10)); then
        code=124 note='not begun: no time is left'
    else
        printf '\n== %s, at most %s s\n' "$part" "$longest"
        export -f "part_$part" tested train sized
        timeout --signal=TERM --kill-after=10 "$longest" bash -uc "part_$part"
        code=$?
        case $code in 0) ;; 124 | 137) note="cut off after $longest s" ;; *) note="failed with exit code $code" ;; esac
    fi
    printf '== %s: %s, %s s\n' "$part" "$note" "$((SECONDS - start))"
    printf '{"part": "%s", "code": %s, "seconds": %s, "note": "%s", "smoke": %s}\n' \
        "$part" "$code" "$((SECONDS - start))" "$note" "$(sized false true)" >>"$out/run.jsonl"
    return "$code"
}

visit() {
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.limit,memory.total --format=csv,noheader 2>/dev/null ||
        echo 'no GPU is seen here'
    "$python" -c 'import platform
from importlib.metadata import version
print("python", platform.python_version(), *(f"{p} {version(p)}" for p in ("torch", "triton", "transformers", "numpy")))'
    local failed=()
    for part in "${chosen[@]}"; do
        run_part "$part" || failed+=("$part")
    done
    printf '\n'
    if ((${#failed[@]})); then
        echo "failed: ${failed[*]}; again: ${0#"$PWD"/}${smoke:+ $smoke} ${failed[*]}"
        return 1
    fi
    echo "all of ${#chosen[@]} parts passed in $SECONDS s; rows are in $out"
}

export smoke python out scratch
visit 2>&1 | tee -a "$out/log.txt"
exit "${PIPESTATUS[0]}"
