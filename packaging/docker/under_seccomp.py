"""Runs a command under a seccomp profile of Docker's format: under_seccomp.py PROFILE COMMAND...

It applies what the runtime would apply to a process without capabilities: rules that ask for one (`includes.caps`) do not
count. Needs pyseccomp (PyPI), which loads the system's libseccomp.
"""

import errno
import json
import os
import sys

import pyseccomp as seccomp

OPERATORS = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_LT": seccomp.LT, "SCMP_CMP_GT": seccomp.GT}


def load(path):
    with open(path) as file:
        profile = json.load(file)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO", profile["defaultAction"]
    filter_ = seccomp.SyscallFilter(seccomp.ERRNO(profile.get("defaultErrnoRet", errno.EPERM)))
    for rule in profile["syscalls"]:
        assert rule["action"] == "SCMP_ACT_ALLOW", rule
        if rule.get("includes", {}).get("caps"):
            continue
        arguments = [seccomp.Arg(arg["index"], OPERATORS[arg["op"]], arg["value"]) for arg in rule.get("args", [])]
        for name in rule["names"]:
            try:
                filter_.add_rule(seccomp.ALLOW, name, *arguments)
            except (OSError, ValueError) as error:
                # Of another architecture, or newer than this libseccomp.
                print(f"{name}: {error}", file=sys.stderr)
    filter_.load()


load(sys.argv[1])
os.execv(sys.argv[2], sys.argv[2:])
