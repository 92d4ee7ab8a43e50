#!/bin/sh
# Installs the package with all that its tests need, on the newest Python here and on the oldest (with the oldest Django),
# checks its form, and runs its tests. Says nothing when all is well. PYTHONS names others: "python3.13 python3.10".
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

quiet() {
    "$@" >"$work/log" 2>&1 || { cat "$work/log"; echo "failed: $*" >&2; exit 1; }
}

find_pythons() {
    all=$(for minor in 10 11 12 13 14; do
        for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python; do
            "$python" -c pass 2>/dev/null && { echo "$python"; break; }
        done || true
    done)
    [ -n "$all" ] || all=python3
    echo "$all" | tail -n 1
    echo "$all" | sed '$d' | head -n 1
}

newest=yes
for python in ${PYTHONS:-$(find_pythons)}; do
    venv=$work/$newest
    quiet "$python" -m venv "$venv"
    if [ $newest = yes ]; then
        quiet "$venv/bin/pip" install -q ".[client,django,fastapi]" pytest flask uvicorn ruff mypy django-stubs
        quiet "$venv/bin/ruff" check --config pyproject.toml . ../conformance ../examples
        quiet "$venv/bin/ruff" format --config pyproject.toml --check . ../conformance ../examples
        quiet env MYPYPATH=src:. PYTHONPATH=src:. "$venv/bin/mypy" --cache-dir "$work/mypy"
    else
        quiet "$venv/bin/pip" install -q ".[client,fastapi]" "django>=4.2,<4.3" pytest flask uvicorn
    fi
    quiet "$venv/bin/python" -m pytest -p no:cacheprovider
    grep -A1 "NO SERVER" "$work/log" >&2 || true
    newest=no
done
