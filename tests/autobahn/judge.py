"""Judges the index.json that Autobahn's fuzzing client leaves behind.

The client's exit code is 0 whatever happened, and a dead server leaves an empty index: so the cases are counted, and each
case's `behavior` and `behaviorClose` are looked at. Called by run.sh: `judge.py INDEX [full]`, `judge.py --check-itself`.
"""

import json
import sys

CASES = 247  # outside 9.*, 12.* and 13.*
CASES_OF_9 = 54
NON_STRICT_MAX = 4
PASSED = {"OK", "INFORMATIONAL"}


def judge(index, full):
    """The complaints about an index: none when the server passed. Also one line that sums it up."""
    cases = [(case, result) for agent in index.values() for case, result in agent.items()]
    limits = [(case, result) for case, result in cases if case.startswith("9.")]
    others = [(case, result) for case, result in cases if not case.startswith("9.")]
    complaints = []
    if len(others) != CASES:
        complaints.append("%d of %d cases outside 9.* were run" % (len(others), CASES))
    if full and len(limits) != CASES_OF_9:
        complaints.append("%d of %d cases of 9.* were run" % (len(limits), CASES_OF_9))
    loose = 0
    for case, result in sorted(cases, key=lambda pair: [int(part) for part in pair[0].split(".")]):
        verdicts = {result.get("behavior", "missing"), result.get("behaviorClose", "missing")}
        strict = verdicts - {"NON-STRICT"}
        loose += "NON-STRICT" in verdicts
        if not strict <= PASSED or case.startswith("9.") and verdicts != {"OK"}:
            complaints.append("%s: behavior %s, close %s (remote close code %s)" % (
                case, result.get("behavior"), result.get("behaviorClose"), result.get("remoteCloseCode")))
    if loose > NON_STRICT_MAX:
        complaints.append("%d cases are NON-STRICT, %d may be" % (loose, NON_STRICT_MAX))
    summary = "%d cases outside 9.*, %d of 9.*, %d NON-STRICT, %d complaints" % (
        len(others), len(limits), loose, len(complaints))
    return complaints, summary


def check_itself():
    def index(verdict="OK", close="OK", spoiled=0, cases=CASES, limits=0, spoiled_limits=0):
        def result(spoil):
            return {"behavior": verdict, "behaviorClose": close} if spoil else {"behavior": "OK", "behaviorClose": "OK"}

        agent = {"1.%d" % n: result(n < spoiled) for n in range(cases)}
        agent.update({"9.%d" % n: result(n < spoiled_limits) for n in range(limits)})
        return {"rainbow": agent}

    def passes(full=False, **planted):
        return not judge(index(**planted), full)[0]

    assert passes() and passes(verdict="INFORMATIONAL", spoiled=3) and passes(verdict="NON-STRICT", spoiled=4)
    assert passes(full=True, limits=CASES_OF_9)
    assert not judge({}, False)[0] == [], "an empty index must not pass"
    assert not passes(cases=CASES - 1)
    assert not passes(verdict="NON-STRICT", spoiled=5)
    for verdict in ("FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "UNIMPLEMENTED"):
        assert not passes(verdict=verdict, spoiled=1) and not passes(close=verdict, spoiled=1), verdict
    assert not passes(full=True), "9.* must have been run"
    assert not passes(full=True, limits=CASES_OF_9, spoiled_limits=1, verdict="NON-STRICT")


def main():
    check_itself()
    if sys.argv[1:] == ["--check-itself"]:
        return 0
    with open(sys.argv[1]) as file:
        complaints, summary = judge(json.load(file), "full" in sys.argv[2:])
    for complaint in complaints:
        print(complaint)
    print("autobahn: " + summary)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
