"""A package transaction that outlives the connection it was started over.

The transaction is a process of its own (a transient systemd unit where systemd runs, else a session of its own) that
writes its state into a directory below the claim of the run:

    run      the shell script that is carried out, once
    about    JSON: action, kernel, kernels (bootable ones before), started (epoch seconds)
    lock     held (flock) by the process for as long as it lives; the system frees it however the process ends
    log      output of the package manager
    status   exit code; written last, atomically

So nothing here trusts a process id, a unit name or the connection: a transaction runs exactly while its lock is held.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import errno
import fcntl
import glob
import json
import os
import shlex
import subprocess
import time

from ansible_collections.fettle.patching.plugins.module_utils.host import ENVIRONMENT, read, write_durable

#: Seconds between making the directory and taking the lock that a starting process is given.
GRACE = 20

SCRIPT = """\
#!/bin/sh
# Carried out once, apart from the connection that started it.
cd /
exec 9>{directory}/lock </dev/null >>{directory}/log 2>&1
flock 9
(
set -ex
{commands}
) 9>&-
code=$?
echo $code >{directory}/status.new
sync
mv {directory}/status.new {directory}/status
"""


class Transaction(object):
    """The transaction in a directory, which need not exist."""

    def __init__(self, directory):
        self.directory = directory

    @classmethod
    def running_elsewhere(cls, runs, own):
        """The transaction of another run that is being carried out on this host now, None when there is none."""
        for directory in sorted(glob.glob(os.path.join(runs, "*", "transaction"))):
            other = cls(directory)
            if directory != own.directory and other.running():
                return other
        return None

    def path(self, name):
        return os.path.join(self.directory, name)

    def exists(self):
        return os.path.isdir(self.directory)

    def about(self):
        """What the transaction is for; of one that has not said so yet, that it is unknown."""
        return json.loads(read(self.path("about")) or '{"action": "transaction", "kernel": "(unknown)"}')

    def status(self):
        """Exit code, None while there is none."""
        text = read(self.path("status"))
        return int(text) if text else None

    def running(self):
        """Whether its process lives, or is just being started."""
        if not self.exists() or self.status() is not None:
            return False
        try:
            with open(self.path("lock")) as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except IOError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return True
            if error.errno != errno.ENOENT:
                raise
        # Not locked: over, never started, or not yet at its first line.
        return self.status() is None and time.time() - os.stat(self.directory).st_ctime < GRACE

    def wait(self, seconds):
        """Wait for the end, at most so long; returns whether it is over."""
        deadline = time.time() + seconds
        while self.running():
            if time.time() >= deadline:
                return False
            time.sleep(0.5)
        return True

    def log(self, size=16384):
        """The end of the package manager's output."""
        try:
            with open(self.path("log"), "rb") as handle:
                handle.seek(0, os.SEEK_END)
                handle.seek(max(0, handle.tell() - size))
                return handle.read().decode("utf-8", "replace")
        except IOError:
            return ""

    def start(self, name, about, commands):
        """Start `commands` (argument lists, one after the other until one fails) unless that was done before."""
        try:
            os.mkdir(self.directory, 0o700)
        except OSError as error:
            if error.errno == errno.EEXIST:
                return
            raise
        write_durable(self.path("about"), json.dumps(about, sort_keys=True))
        script = SCRIPT.format(
            directory=shlex.quote(self.directory),
            commands="\n".join(" ".join(shlex.quote(word) for word in command) for command in commands),
        )
        write_durable(self.path("run"), script)
        argv = ["/bin/sh", self.path("run")]
        if os.path.isdir("/run/systemd/system"):
            # Stopping the unit, as a shutdown does, only sends SIGCONT: it waits for the package manager to end.
            argv = [
                "systemd-run",
                "--quiet",
                "--collect",
                "--unit=" + name,
                "--description=Fettle: %s of kernel %s" % (about["action"], about["kernel"]),
                "--property=KillSignal=SIGCONT",
                "--property=TimeoutStopSec=3600",
            ] + ["--setenv=%s=%s" % pair for pair in sorted(ENVIRONMENT.items())] + argv
            subprocess.check_output(argv, stderr=subprocess.STDOUT)
        else:
            with open(os.devnull, "r+") as null:
                subprocess.Popen(
                    argv,
                    stdin=null,
                    stdout=null,
                    stderr=null,
                    env=dict(os.environ, **ENVIRONMENT),
                    cwd="/",
                    close_fds=True,
                    preexec_fn=os.setsid,
                )
