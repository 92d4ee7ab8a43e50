# What the perf scripts share. Sourced by them; Debian, root or sudo for installing.

readonly inferno_version=0.12.8
readonly tools=target/perf-tools
readonly out=perf/out
export LC_ALL=C

say() { echo "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# perf itself. Any version does: what is read of the kernel is stable.
need_perf() {
    if perf --version >/dev/null 2>&1; then return; fi
    say "installing linux-perf"
    as_root apt-get update -q >&2
    as_root apt-get install -q -y --no-install-recommends linux-perf >&2
    perf --version >/dev/null 2>&1 || { say "perf does not run here: $(perf --version 2>&1)"; exit 1; }
}

# Inferno's command line tools, pinned, inside target/.
need_inferno() {
    if [ -x $tools/bin/inferno-flamegraph ]; then return; fi
    say "installing inferno $inferno_version into $tools (a minute, once)"
    cargo install -q --locked --root $tools --version $inferno_version inferno >&2
}

# Without privilege perf may watch only our own processes, which is enough, but not ksoftirqd.
watched_pids() {
    if [ "$(id -u)" = 0 ]; then echo '$SERVER_PID,$SOFTIRQ_PID'; else echo '$SERVER_PID'; fi
}

# The harness on the server alone; JSON lines go to the file $1, the rest of the arguments to the harness.
load() {
    local json=$1
    shift
    cargo bench -q --bench load -- --no-floors "$@" | tee /dev/stderr | grep '^{' >"$json" || true
    [ -s "$json" ] || { say "the scenario gave no result"; exit 1; }
}

# Of the first result in CPU time in a file of JSON lines: the named fields. Where it is a share of the time (idle), an
# operation is a second.
field() {
    python3 -c 'import json, sys
row = next(row for row in map(json.loads, open(sys.argv[1])) if row["unit"] in ("µs/op", "ms/s"))
if row["unit"] == "ms/s":
    row["value"] *= 1000
print(*(row[name] for name in sys.argv[2:]))' "$@"
}
