#!/usr/bin/env bash
# Installs what the tests need where it is missing (Debian, root) and runs them all: tests/run.sh [fast|full]
#
#   fast   formatting, lints and `cargo test` only
#   full   also Autobahn's cases 9.* (limits and performance), all integration tests with epoll, a channel of 100,000 members, and the Python package (pip, two Pythons)
#
# It stops at the first step that fails. The last line counts the steps. A step is a function below; its order is in `main`.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly mode=${1:-all}
readonly fuzz_seconds=${FUZZ_SECONDS:-10}
# Most tests wait for servers more than they compute.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
export DEBIAN_FRONTEND=noninteractive
# Servers of different tests would be one cluster; those that are meant to be one say so.
export RAINBOW_CLUSTER=off
export PATH=$PATH:/usr/sbin # nginx and haproxy are there, which is in root's path only

main() {
    case $mode in all | fast | full) ;; *) echo "usage: tests/run.sh [fast|full]" >&2 && exit 2 ;; esac
    trap summary EXIT
    ulimit -n "$(ulimit -Hn)"
    step tools
    step format
    step lints
    step unit_and_integration_tests
    step epoll_driver
    if [ "$mode" = fast ]; then return; fi
    step dependencies
    step cluster
    step release_build
    step loom
    step fuzz
    step interpreters
    side_by_side "autobahn javascript_client objective_c_client examples readme" "conformance openapi otlp"
    if [ "$mode" = full ]; then step python_client; fi
    step browser
    step many_at_once
    step benches
    step load_scenarios
    step packages
}

# ---- steps ----

tools() {
    command -v cargo >/dev/null || say_and_fail "cargo is missing: install Rust 1.95 or newer (https://rustup.rs)"
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
    local packages=()
    missing g++ && packages+=(build-essential)
    missing python3 && packages+=(python3)
    missing curl && packages+=(curl)
    missing redis-server && packages+=(redis-server)
    missing faketime && packages+=(faketime)
    missing nginx && packages+=(nginx-light)
    missing haproxy && packages+=(haproxy)
    if [ "$mode" != fast ]; then
        missing node && packages+=(nodejs)
        missing npm && packages+=(npm)
        missing chromium && packages+=(chromium)
        python3 -c "import ensurepip" 2>/dev/null || packages+=(python3-venv)
        missing promtool && packages+=(prometheus)
        missing systemd-analyze && packages+=(systemd)
        missing ip && packages+=(iproute2)
        missing nft && packages+=(nftables)
        missing clang && packages+=(clang)
        missing gnustep-config && packages+=(libgnustep-base-dev)
        missing openssl && packages+=(openssl)
        [ -e /usr/include/gnutls/gnutls.h ] || packages+=(libgnutls28-dev)
    fi
    if [ ${#packages[@]} -gt 0 ]; then
        echo "installing ${packages[*]}"
        as_root apt-get update -q
        as_root apt-get install -q -y --no-install-recommends "${packages[@]}"
    fi
    if [ "$mode" != fast ] && ! cargo deny --version >/dev/null 2>&1; then
        cargo install --locked --debug cargo-deny # unoptimised: a minute instead of five, and it runs for a second
    fi
}

format() {
    cargo fmt --check
}

lints() {
    cargo clippy --locked --all-targets --features otlp -- -D warnings
}

unit_and_integration_tests() {
    if [ "$mode" = fast ] && missing promtool; then export RAINBOW_TESTS_WITHOUT_PROMTOOL=1; fi
    cargo test --locked
}

# What serves where io_uring is forbidden: all of it in the full run, else what covers each kind of socket.
epoll_driver() {
    local names=(api connect drain forward framing sessions_api)
    if [ "$mode" = full ]; then names=(); fi
    RAINBOW_TEST_DRIVER=epoll cargo test --locked --test it -- "${names[@]}"
}

# Hosts in network namespaces: the kernel grants them to root only, and many containers not even to root.
cluster() {
    if ! unshare --net ip link set lo up 2>/dev/null; then
        echo "no network namespaces here (they need CAP_SYS_ADMIN and CAP_NET_ADMIN)"
        return "$skipped_status"
    fi
    cargo test --locked --test cluster -- --nocapture
}

dependencies() {
    cargo deny check bans licenses sources
}

release_build() {
    cargo build --locked --release --features otlp # as in packages; `cargo test` builds it without
}

# Every interleaving of the doorbell.
loom() {
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom \
        cargo test --locked --manifest-path tests/loom/Cargo.toml | tee target/loom.log
    grep -q '^test .*ok$' target/loom.log || say_and_fail "no loom test was run"
}

# What `cargo fuzz` does, without having to install it. The address sanitizer needs the nightly compiler.
fuzz() {
    local host flags toolchain=+nightly
    host=$(rustc -vV | sed -n 's/^host: //p')
    flags="--cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address"
    if ! cargo +nightly --version >/dev/null 2>&1; then
        echo "no nightly compiler: fuzzing without the address sanitizer"
        toolchain=+stable flags=${flags/-Zsanitizer=address/}
    fi
    RUSTFLAGS=$(echo "$flags" | tr -s ' \n' ' ') CARGO_TARGET_DIR=target/fuzz \
        cargo $toolchain build --release --manifest-path tests/fuzz/Cargo.toml --target "$host"
    # A target has one thread: two at a time.
    local source fuzzing=() pid count=0
    for source in tests/fuzz/fuzz_targets/*.rs; do
        fuzz_target "$(basename "$source" .rs)" "$host" &
        fuzzing+=($!) count=$((count + 1))
        if [ $((count % 2)) -eq 0 ]; then
            for pid in "${fuzzing[@]}"; do wait "$pid"; done
            fuzzing=()
        fi
    done
    for pid in "${fuzzing[@]}"; do wait "$pid"; done
    [ $count -gt 0 ] || say_and_fail "no fuzz target was run"
}

fuzz_target() {
    local target=$1 host=$2
    local folders=("target/fuzz/corpus/$target") log=target/fuzz/$target.log status=0
    mkdir -p "${folders[0]}" target/fuzz/artifacts
    if [ -d "tests/fuzz/seeds/$target" ]; then folders+=("tests/fuzz/seeds/$target"); fi
    "target/fuzz/$host/release/$target" -max_total_time="$fuzz_seconds" -rss_limit_mb=2048 -timeout=10 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="target/fuzz/artifacts/$target-" "${folders[@]}" >"$log" 2>&1 || status=$?
    echo "fuzzed $target for $fuzz_seconds s"
    grep -vE "^INFO|NEW_FUNC|^\"|dictionary|stat::(new_units|slowest)" "$log" || true
    return $status
}

# What the next steps need of npm and PyPI.
interpreters() {
    python_packages
    python_tool openapi schemathesis
    python_tool otlp python
    local folder
    for folder in clients/js clients/examples tests/browser; do node_modules "$folder"; done
}

autobahn() {
    tests/autobahn/run.sh "$mode"
}

javascript_client() {
    RAINBOW_BIN=$PWD/target/release/rainbow-server npm --prefix clients/js test
}

# Built with GNUstep, tested, and judged by the kit.
objective_c_client() {
    local server=$PWD/target/release/rainbow-server
    make -s -C clients/objc check RAINBOW_BIN="$server"
    python3 clients/conformance/run.py --server "$server" -- clients/objc/build/conformance
}

# Each example, started as its reader starts it.
examples() {
    RAINBOW_BIN=$PWD/target/release/rainbow-server EXAMPLE_PYTHON=$PWD/$python npm --prefix clients/examples test
}

# The kit's own test, then the clients in the kit. A page does not see the status of a refused upgrade.
conformance() {
    local kit=clients/conformance server=target/release/rainbow-server
    python3 $kit/selftest.py --server $server
    python3 $kit/run.py --server $server --without http_status -- node clients/js/test/conformance.js
    PYTHONPATH=clients/python/src python3 $kit/run.py --server $server -- "$python" clients/python/tests/conformance.py
}

# The description of calls and hooks, held against the server.
openapi() {
    target/openapi/bin/python tests/openapi/check.py target/release/rainbow-server
}

# Spans, as a collector gets them.
otlp() {
    target/otlp/bin/python tests/otlp/check.py target/release/rainbow-server
}

python_client() {
    RAINBOW_SERVER=$PWD/target/release/rainbow-server clients/python/test.sh
}

# What README.md and src/io/api/README.md tell their reader to type.
readme() {
    README_PYTHON=$PWD/$python RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/readme.mjs
}

# The demo in a real Chromium.
browser() {
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/chat.mjs
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/tour.mjs
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/waiting.mjs
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/network.mjs
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/nodes.mjs
    RAINBOW_BIN=$PWD/target/release/rainbow-server node tests/browser/operator.mjs
}

# Built as tests, each runs tiny.
benches() {
    cargo test --locked --bench '*'
}

# Of `it`, what a debug build does on a small scale only.
many_at_once() {
    RAINBOW_TEST_FULL=$([ "$mode" != full ] || echo 1) RAINBOW_BIN=$PWD/target/release/rainbow-server \
        cargo test --locked --test it -- half_a_million a_node_that_fans_out --nocapture
}

# Shows that they work; how fast is for `cargo bench`, which optimises the whole program first.
load_scenarios() {
    RAINBOW_BIN=$PWD/target/release/rainbow-server cargo test --locked --release --features otlp --bench load -- --bench --small
}

# What installs, runs and watches the server: half a minute, with the release build in the deb.
# The wheel needs a build of its own, of many minutes.
packages() {
    local parts=(unit deb container kubernetes monitoring)
    if [ "$mode" = full ]; then parts+=(wheel); fi
    RAINBOW_BIN=$PWD/target/release/rainbow-server packaging/test.sh "${parts[@]}"
}

# ---- the machinery ----

passed=0 skipped=0 current="" started=0 timings=()
# A step that cannot run here returns it; the summary says so.
readonly skipped_status=77

# Runs one step in a shell of its own, so that `set -e` holds inside it.
step() {
    current=$1 started=$SECONDS
    printf '\n==== %s ====\n' "${1//_/ }"
    set +e
    (set -e && "$1")
    local status=$?
    set -e
    local note=""
    case $status in
        0) passed=$((passed + 1)) ;;
        "$skipped_status") skipped=$((skipped + 1)) note="  SKIPPED" ;;
        *) exit 1 ;;
    esac
    timings+=("$(printf '%6d s  %s%s' $((SECONDS - started)) "${1//_/ }" "$note")")
    current=""
}

# Runs steps that wait more than they compute. Each argument has the names of some that follow each other; the arguments
# run beside each other. What the steps print comes at the end.
side_by_side() {
    local folder names name status seconds failed="" running=()
    folder=$(mktemp -d)
    printf '\n==== beside each other:'
    printf ' [%s]' "${@//_/ }"
    printf ' ====\n'
    for names in "$@"; do
        in_turn "$folder" $names &
        running+=($!)
    done
    wait "${running[@]}"
    while read -r name status seconds; do
        printf '\n==== %s ====\n' "${name//_/ }"
        cat "$folder/$name"
        if [ "$status" -ne 0 ]; then
            failed=$name started=$((SECONDS - seconds))
        else
            passed=$((passed + 1))
            timings+=("$(printf '%6d s  %s' "$seconds" "${name//_/ }")")
        fi
    done <"$folder/ended"
    rm -r "$folder"
    current=$failed
    [ -z "$failed" ]
}

# Into a folder: what each step prints, and how it ended.
in_turn() {
    local folder=$1 name status begun
    shift
    for name in "$@"; do
        begun=$SECONDS
        set +e
        (set -e && "$name") >"$folder/$name" 2>&1
        status=$?
        echo "$name $status $((SECONDS - begun))" >>"$folder/ended"
        [ "$status" -eq 0 ] || break
    done
}

summary() {
    printf '\n'
    if [ ${#timings[@]} -gt 0 ]; then printf '%s\n' "${timings[@]}"; fi
    if [ -n "$current" ]; then printf '%6d s  %s  FAILED\n' $((SECONDS - started)) "${current//_/ }"; fi
    echo "$passed passed, $((${#current} > 0)) failed, $skipped skipped"
}
missing() {
    ! command -v "$1" >/dev/null
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

say_and_fail() {
    echo "$*" >&2
    return 1
}

# A Python with what the Python package and the examples need, made once.
python=target/conformance/bin/python
python_packages() {
    if ! "$python" -c "import django, fastapi, httpx, uvicorn, websockets" 2>/dev/null; then
        python3 -m venv target/conformance
        "$python" -m pip install -q "django>=5" "fastapi>=0.110" "httpx>=0.27" "uvicorn>=0.30" "websockets>=14"
    fi
}

# What `tests/$1/requirements.txt` names, in an environment of its own; $2 is a program of it.
python_tool() {
    local folder=target/$1
    if [ "$folder/bin/$2" -nt "tests/$1/requirements.txt" ]; then return; fi
    python3 -m venv "$folder"
    "$folder/bin/pip" install -q -r "tests/$1/requirements.txt"
    touch "$folder/bin/$2"
}

# The packages that the lock file names, fetched once.
node_modules() {
    if [ "$1/node_modules/.package-lock.json" -nt "$1/package-lock.json" ]; then return; fi
    npm --prefix "$1" ci --no-audit --no-fund
}

main
