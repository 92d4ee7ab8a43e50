#!/usr/bin/env bash
# Starts an example with a rainbow-server in front of it, until Ctrl-C: clients/examples/start.sh django|fastapi|express|bell|device
#
# EXAMPLE_PORT (8000) and EXAMPLE_RAINBOW_PORT (1984) name other ports, RAINBOW_BIN another server, EXAMPLE_PYTHON a Python that has the packages.
set -euo pipefail
cd "$(dirname "$0")"
export EXAMPLE_PORT=${EXAMPLE_PORT:-8000} EXAMPLE_RAINBOW_PORT=${EXAMPLE_RAINBOW_PORT:-1984}

python() {
    if [ -z "${EXAMPLE_PYTHON:-}" ]; then
        EXAMPLE_PYTHON=.venv/bin/python
        [ -x .venv/bin/uvicorn ] || { python3 -m venv .venv && .venv/bin/pip install -q "../python[client,django,fastapi]" uvicorn; }
    fi
    PYTHONPATH=../python/src exec "$EXAMPLE_PYTHON" "$@"
}

node_js() {
    [ -d node_modules ] || npm ci --no-audit --no-fund
    exec node "$@"
}

case ${1:-} in
django) commands=("python chat_django.py") ;;
fastapi) commands=("python chat_fastapi.py") ;;
express) commands=("node_js chat_express.mjs") ;;
bell) commands=("node_js bell.mjs") ;;
device) commands=("python device_server.py" "python device.py") ;;
*) sed -n 2,4p "$0" >&2 && exit 2 ;;
esac

server=${RAINBOW_BIN:-$(ls -t ../../target/{release,debug}/rainbow-server 2>/dev/null | head -n 1 || true)}
[ -n "$server" ] || { cargo build --release && server=../../target/release/rainbow-server; }
work=$(mktemp -d)
export EXAMPLE_DATA=$work
cat >"$work/rainbow.toml" <<TOML
listen = "127.0.0.1"
http_port = $EXAMPLE_RAINBOW_PORT
connect_url = "http://127.0.0.1:$EXAMPLE_PORT/rainbow/connect/"
forward_url = "http://127.0.0.1:$EXAMPLE_PORT/rainbow/message/{message_type}/"
close_url = "http://127.0.0.1:$EXAMPLE_PORT/rainbow/close/"
security_token = "testtoken"
cluster = "off"
shutdown_timeout = "2s"

[store]
kind = "sqlite"
data_dir = "$work/data"
TOML

children=()
finish() {
    # The server first: its last calls tell the example who has gone.
    for child in "${children[@]}"; do kill "$child" 2>/dev/null && wait "$child" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 0' INT TERM
env -u RAINBOW_BIN "$server" -f "$work/rainbow.toml" &
children+=($!)
for command in "${commands[@]}"; do
    $command &
    children+=($!)
done
[ "$1" = device ] || echo "http://127.0.0.1:$EXAMPLE_PORT/?rainbow=$EXAMPLE_RAINBOW_PORT"
wait -n
