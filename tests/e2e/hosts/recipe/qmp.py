#!/usr/bin/env python3
"""Talk to a running virtual machine over its QMP socket.

qmp.py freeze SOCKET STATE   stop the machine, write its device state to STATE, end it
qmp.py thaw SOCKET STATE     load STATE into a machine started with `-incoming defer`; returns once it runs
qmp.py quit SOCKET           end the machine as if its plug were pulled

Guest memory is not in STATE: it lives in the RAM file of the machine, which the
capability x-ignore-shared leaves out of the stream.
"""
import json
import os
import socket
import sys
import time


class Monitor:
    """One QMP connection; `run` sends a command and returns its answer."""

    def __init__(self, path):
        # A socket address holds 107 bytes: reach it by its short name.
        os.chdir(os.path.dirname(os.path.abspath(path)))
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(os.path.basename(path))
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        """Send one command; raise RuntimeError with QEMU's own words if it is refused."""
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        for line in self.stream:
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise RuntimeError(f"{command}: the machine went away")

    def ignore_memory(self):
        """Leave guest memory out of the migration stream."""
        self.run("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def wait(self, query, done, failed, seconds=60):
        """Poll `query` until its status is in `done`; raise on `failed` or after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.run(query).get("status")
            if status in done:
                return
            if status in failed or time.monotonic() > deadline:
                raise RuntimeError(f"{query}: {status}")
            time.sleep(0.02)


def quote(path):
    """Quote a path for the shell that QEMU starts for `exec:` addresses."""
    return "'" + path.replace("'", "'\\''") + "'"


def main(verb, sock, state=None):
    state = os.path.abspath(state) if state else None
    monitor = Monitor(sock)
    if verb == "freeze":
        monitor.ignore_memory()
        monitor.run("stop")
        monitor.run("migrate", uri=f"exec:cat > {quote(state)}")
        monitor.wait("query-migrate", {"completed"}, {"failed", "cancelled"})
        monitor.run("quit")
    elif verb == "thaw":
        monitor.ignore_memory()
        monitor.run("migrate-incoming", uri=f"exec:cat {quote(state)}")
        monitor.wait("query-status", {"paused", "running"}, {"internal-error", "io-error", "guest-panicked"})
        monitor.run("cont")  # it was stopped when it was frozen, and remembers that
    elif verb == "quit":
        monitor.run("quit")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (OSError, RuntimeError) as error:
        sys.exit(f"qmp: {error}")
