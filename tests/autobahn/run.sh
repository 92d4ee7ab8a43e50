#!/usr/bin/env bash
# Autobahn's fuzzing client against `rainbow-server echo`: tests/autobahn/run.sh [full]
#
# The client (PyPI autobahntestsuite) needs Python 2.7; it gets a virtual environment below target/autobahn, once. `full` adds
# the cases 9.* (limits and performance). AUTOBAHN_SERVER names another command to test; `PORT` in it becomes the port.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly work=target/autobahn
readonly venv=$work/venv
readonly suite=autobahntestsuite==25.10.1
readonly virtualenv=virtualenv==20.15.1 # the last one that makes environments for 2.7
read -r -a command <<<"${AUTOBAHN_SERVER:-target/release/rainbow-server echo -p PORT}"
mode=${1:-}
server=

main() {
    install_client
    trap stop_server EXIT
    start_server
    run_client
    kill -0 "$server" || fail "the server died during the run; its log: $work/server.log"
    python3 tests/autobahn/judge.py $work/reports/index.json "$mode" || fail "the reports are in $work/reports/index.html"
}

fail() {
    echo "autobahn: $*" >&2
    exit 1
}

python27() {
    local python
    for python in "${PYTHON27:-}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python2.7 python2.7 python2 pypy; do
        if [ -n "$python" ] && "$python" -c 'import sys, ssl, ctypes; assert sys.version_info[:2] == (2, 7)' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    fail "it needs Python 2.7, and none was found: install one (pyenv install 2.7.18) or name one in PYTHON27"
}

install_client() {
    if "$venv/bin/wstest" --help >/dev/null 2>&1; then return; fi
    local python
    python=$(python27)
    echo "autobahn: installing $suite with $python"
    mkdir -p $work
    rm -rf $venv $work/virtualenv
    "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null
    "$python" -m pip install --quiet --target $work/virtualenv $virtualenv 2>&1 | grep -v DEPRECATION || true
    PYTHONPATH=$work/virtualenv "$python" -m virtualenv --quiet $venv
    $venv/bin/pip install --quiet $suite 2>&1 | grep -v DEPRECATION || true
    "$venv/bin/wstest" --help >/dev/null 2>&1 || fail "wstest does not start: $venv/bin/wstest --help says why"
}

start_server() {
    local port attempt
    for attempt in 1 2 3; do # another process may take the port between the choice and its use
        port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
        "${command[@]//PORT/$port}" >$work/server.log 2>&1 &
        server=$!
        if await_port "$port"; then
            url=ws://127.0.0.1:$port
            return
        fi
        stop_server
        echo "autobahn: attempt $attempt: no server on port $port" >&2
    done
    cat $work/server.log >&2
    fail "the server does not start: ${command[*]}"
}

# Until the port accepts, the server has ended, or ten seconds have passed.
await_port() {
    for _ in {1..100}; do
        if ! kill -0 "$server" 2>/dev/null; then return 1; fi
        if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    return 1
}

stop_server() {
    if [ -z "$server" ]; then return; fi
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
    server=
}

run_client() {
    local excluded='"9.*", "12.*", "13.*"' seconds=300
    if [ "$mode" = full ]; then
        excluded='"12.*", "13.*"' seconds=1200
    fi
    rm -rf $work/reports
    cat >$work/spec.json <<SPEC
{"outdir": "$work/reports", "servers": [{"agent": "rainbow", "url": "$url"}],
 "cases": ["*"], "exclude-cases": [$excluded], "exclude-agent-cases": {}}
SPEC
    timeout $seconds $venv/bin/wstest -m fuzzingclient -s $work/spec.json >$work/client.log 2>&1 ||
        fail "the client did not come to an end; its log: $work/client.log"
    [ -s $work/reports/index.json ] || fail "the client left no index; its log: $work/client.log"
}

main
