#!/usr/bin/env python3
"""The kit's own test: the reference client passes every scenario, and each planted fault is caught where it must be.

python3 clients/conformance/selftest.py [--server target/debug/rainbow-server] [--only FAULT]
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kit.world import SCENARIOS
from reference import FAULTS
from run import Outcome, play

#: Which scenarios must fail with which fault.
CAUGHT = {
    "qos0-as-qos1": "up-qos0",
    "qos0-twice": "down-qos0 both-ways down-plain",
    "first-with-dup": "up-qos1",
    "no-rel": "up-qos2",
    "no-ack": "down-qos1",
    "no-com": "down-qos2 dup-rel",
    "no-com-for-unknown": "unknown-ids dup-rel",
    "no-rel-for-unknown": "unknown-ids timeout",
    "no-reply": "reply dup-qos1 dup-qos2",
    "acks-at-once": "ack-after-handling restart-unhandled",
    "type-of-8-bits": "types",
    "text-only": "binary",
    "ascii-only": "unicode",
    "cut-to-64k": "large",
    "sends-unordered": "order-up",
    "handles-unordered": "order-down",
    "ids-to-65535": "ids",
    "no-repeat": "repeat-send-qos1 repeat-send-qos2 repeat-rel",
    "repeats-as-new": "repeat-send-qos1 repeat-send-qos2 backend-retry",
    "forgets-received": "dup-qos1 dup-qos2 dup-slow frozen-shortly id-held-qos2 id-reuse-qos1",
    "qos1-ids-for-ever": "id-reuse-qos1",
    "dup-is-repeat": "cut-down-qos1 cut-down-qos2",
    "no-timeout": "timeout",
    "loses-sends": "cut-up-qos1 cut-up-plain cut-in-frame server-restart server-killed session-expired dead-line",
    "new-ids": "cut-up-qos2 resume-sends",
    "forgets-session": "cut-down-qos2 cut-stream frozen waiting-cut",
    "ignores-greeting": "resume",
    "needs-greeting": "up-plain down-plain",
    "strict-greeting": "greeting-fields",
    "writes-early": "greeting-first",
    "loses-one": "waiting-1000",
    "comes-back": "takeover refused refused-403 refused-plain refused-later kicked close-codes",
    "4503-final": "backend-away close-codes",
    "old-codes": "close-codes",
    "keeps-old-ids": "session-anew",
    "no-storage": "restart-handled restart-own-ids restart-ids-go-on",
    "no-params": "who",
    "params-once": "params-each",
    "close-comes-back": "closed-by-client closed-while-away",
    "close-without-code": "closed-by-client",
    "gives-up": "cut-handshake server-down dead-greeting",
    "no-limit": "greeting-limit",
    "repeats-1009": "closed-1009 closed-1009-plain",
    "refusal-is-answer": "backend-4xx",
    "flag-always": "refused-bit-plain",
    "ignores-malformed": "malformed",
    "no-ping": "heartbeat dead-line clock-sleep",
    "waits-for-ever": "dead-greeting dead-handshake",
    "impatient": "slow-line",
    "wall-repeats": "clock-jumps",
    "wall-heartbeat": "clock-back",
    "no-jitter": "backoff backoff-together",
    "no-backoff": "backoff",
    "ignores-told": "retry-after",
    "reset-at-open": "backoff-flapping",
    "never-reset": "backoff-ends",
    "status-not-seen": "refused-plain",
}
#: A fault is seen when something does not come; a client that passes needs far less.
PATIENCE_S = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", type=Path, default=Path("target/debug/rainbow-server"))
    parser.add_argument("--only", action="append", default=[], choices=sorted(FAULTS))
    parser.add_argument("--jobs", type=int, default=18)
    options = parser.parse_args()
    began = time.monotonic()
    wrong = [] if options.only else table_faults()
    faults = options.only or list(CAUGHT)
    pairs = [(fault, name) for fault in faults for name in CAUGHT[fault].split()]
    if not options.only:
        pairs += [("", name) for name in SCENARIOS]
    pairs.sort(key=lambda pair: -SCENARIOS[pair[1]].deadline)
    program = [sys.executable, str(Path(__file__).with_name("reference.py"))]

    def run(pair: tuple[str, str]) -> Outcome:
        fault, name = pair
        planted = ["--fault", fault] if fault else []
        return play(SCENARIOS[name], options.server.resolve(), program + planted, patience=PATIENCE_S if fault else 10)

    with ThreadPoolExecutor(options.jobs) as pool:
        for (fault, name), outcome in zip(pairs, pool.map(run, pairs), strict=True):
            wrong += judged(fault, name, outcome)
    print("\n".join(wrong) if wrong else "the kit sees what it must")
    caught = sum(1 for fault, _ in pairs if fault)
    print(f"{len(faults)} faults in {caught} plays, {len(wrong)} wrong, {time.monotonic() - began:.1f} s")
    return 1 if wrong else 0


def table_faults() -> list[str]:
    covered = {name for names in CAUGHT.values() for name in names.split()}
    wrong = [f"no fault is planted for {name}" for name in SCENARIOS if name not in covered]
    wrong += [f"there is no scenario {name}" for name in covered if name not in SCENARIOS]
    return wrong + [f"{fault} is in one table only" for fault in CAUGHT.keys() ^ FAULTS.keys()]


def judged(fault: str, name: str, outcome: Outcome) -> list[str]:
    if outcome.is_kits:
        return [f"{name} itself breaks down with {fault or 'the reference client'}: {outcome.fault}"]
    if not fault and outcome.fault:
        return [
            f"the reference client fails in {name}: {outcome.fault}",
            *("    " + line for line in outcome.transcript),
        ]
    if fault and not outcome.fault:
        return [f"{name} does not catch {fault} ({FAULTS[fault]})"]
    return []


if __name__ == "__main__":
    sys.exit(main())
