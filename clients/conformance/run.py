#!/usr/bin/env python3
"""Judges a client of Rainbow: starts the server, plays the scenarios with the client program, and says what failed.

python3 clients/conformance/run.py --server target/debug/rainbow-server -- node clients/js/test/conformance.js
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as CallTimeout
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import scenarios
from kit.world import PATIENCE_S, SCENARIOS, Failed, Scenario, World

#: What a client may lack, if it is said.
ABILITIES = {
    "plain": "can do without `rainbow.2`",
    "storage": "keeps a session's ids over a restart",
    "http_status": "sees the HTTP status of a refused upgrade (a browser does not)",
    "clock": "its clock can be set forward",
    "params_each": "makes its query parameters anew for each attempt",
}
#: After the scenario's own deadline everything it uses is taken away, which ends whatever it waits for.
GRACE_S = 10
TRANSCRIPT_MAX = 400


@dataclass(frozen=True)
class Outcome:
    scenario: Scenario
    seconds: float
    result: str = ""
    fault: str | None = None
    transcript: tuple[str, ...] = ()
    #: Not judged: the scenario itself broke down.
    is_kits: bool = False


def main() -> int:
    options = arguments()
    chosen = [
        one for one in SCENARIOS.values() if not options.only or any(fnmatch(one.name, only) for only in options.only)
    ]
    if options.list:
        for one in chosen:
            needs = f"  (needs {', '.join(one.needs)})" if one.needs else ""
            print(f"{one.name:<28} {one.about}{needs}")
        return 0
    left_out = [one for one in chosen if set(one.needs) & set(options.without)]
    played = [one for one in chosen if one not in left_out]
    if not played:
        print("no scenario of that name", file=sys.stderr)
        return 2
    began = time.monotonic()
    # The longest first, so that none is left over at the end.
    played.sort(key=lambda one: -one.deadline)
    with ThreadPoolExecutor(options.jobs) as pool:
        plays = pool.map(lambda one: play(one, options.server, options.client, frozenset(options.without)), played)
        failed = sum(not report(outcome, options.verbose) for outcome in plays)
    for one in left_out:
        print(f"left out        {one.name}  ({', '.join(set(one.needs) & set(options.without))})")
    print(f"{len(played) - failed} passed, {failed} failed, {len(left_out)} left out, {time.monotonic() - began:.1f} s")
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--server", type=Path, default=Path("target/debug/rainbow-server"), help="the rainbow-server to use"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a scenario, or a pattern such as 'cut-*'"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=sorted(ABILITIES), help="the client cannot do this"
    )
    parser.add_argument("--jobs", type=int, default=10, help="scenarios at a time (most of them wait)")
    parser.add_argument("--list", action="store_true", help="the scenarios")
    parser.add_argument("--verbose", action="store_true", help="transcripts of what passed, too")
    parser.add_argument("client", nargs="*", help="after --, the client program and its arguments")
    options = parser.parse_args()
    if not options.list and not options.client:
        parser.error("name the client program, after --")
    if not options.list and not options.server.is_file():
        parser.error(f"{options.server} is missing: cargo build")
    options.server = options.server.resolve()
    return options


def play(
    one: Scenario, server: Path, client: list[str], without: frozenset[str] = frozenset(), patience: float = PATIENCE_S
) -> Outcome:
    began = time.monotonic()
    world = World(one, server, client)
    world.without, world.patience = without, patience
    overdue = threading.Event()

    def take_away() -> None:
        overdue.set()
        world.close()

    watch = threading.Timer(one.deadline + GRACE_S, take_away)
    watch.start()
    result, fault, is_kits = "", None, False
    try:
        if one.starts:
            world.start()
        result = one.play(world) or ""
    except Failed as failure:
        fault = str(failure)
    except CallTimeout:
        fault = "a call of the business server is not answered: the client has not acknowledged"
    except Exception:
        fault, is_kits = traceback.format_exc(), True
    finally:
        watch.cancel()
        world.close()
    if overdue.is_set():
        fault = f"over its deadline of {one.deadline:g} s" + (f": {fault}" if fault else "")
    return Outcome(one, time.monotonic() - began, result, fault, tuple(world.transcript), is_kits)


def report(outcome: Outcome, is_verbose: bool) -> bool:
    name, note = outcome.scenario.name, f"  ({outcome.result})" if outcome.result else ""
    print(f"{'FAIL' if outcome.fault else 'ok  '}  {outcome.seconds:6.2f} s  {name}{note}", flush=True)
    if outcome.fault:
        print(f"    must be: {outcome.scenario.about}\n    {outcome.fault}")
    lines = outcome.transcript if outcome.fault or is_verbose else ()
    if len(lines) > TRANSCRIPT_MAX:
        half = TRANSCRIPT_MAX // 2
        lines = (*lines[:half], f"    … {len(lines) - TRANSCRIPT_MAX} lines …", *lines[-half:])
    for line in lines:
        print(f"    {line}")
    return outcome.fault is None


assert scenarios.__doc__
if __name__ == "__main__":
    sys.exit(main())
