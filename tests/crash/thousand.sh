#!/bin/bash
# A thousand kill -9 of the real server, a hundred per run, each run with a seed of its own; then a summary. About ten
# minutes on two cores. `tests/crash/thousand.sh 200` does two hundred. The seed of a run that fails is printed.
set -euo pipefail
cd "$(dirname "$0")/../.."

kills=${1:-1000} each=100 log=target/thousand.log
test_name=kills::fifty_kills_lose_nothing_and_double_nothing
cargo test --locked --test crash --no-run
: >"$log"
for ((done = 0, seed = ${CRASH_SEED:-1}; done < kills; done += each, seed++)); do
    echo "seed $seed: kills $((done + 1)) to $((done + each))"
    if ! CRASH_KILLS=$each CRASH_SEED=$seed \
        cargo test --quiet --locked --test crash -- --exact --nocapture "$test_name" >>"$log" 2>&1; then
        tail -50 "$log"
        echo "seed $seed FAILED; the whole log is $log"
        exit 1
    fi
done
python3 - "$log" <<'PY'
import json, sys

reports = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8") if line.startswith('{"absences"')]
total = lambda *path: sum(walk(report, path) for report in reports)
def walk(value, path):
    for step in path:
        value = value[step]
    return value
print(f"{len(reports)} runs, {total('kills')} kills, {total('kills_at_points')} of them at named points, "
      f"{total('kills_in_recovery')} during recovery, {total('cuts')} cuts, {total('takeovers')} takeovers, {total('seconds'):.0f} s")
for name in ("tried", "acknowledged", "delivered", "repeated", "lost", "doubled", "unexpected", "out_of_order", "corrupted", "keys"):
    print(f"{name:>14} {total('verdict', 'total', name)}")
print(f"{'sessions lost':>14} {total('verdict', 'sessions_lost')}")
PY
