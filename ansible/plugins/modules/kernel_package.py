#!/usr/bin/python
"""Download or install a kernel in a transaction that outlives the connection."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: kernel_package
short_description: Download or install exactly one kernel, detached from the connection
version_added: 1.0.0
description:
  - The package manager runs in a process of its own on the host. A lost connection or a cancelled job cannot cut it in half.
  - Call it again with the same O(directory) until RV(finished); it starts the transaction once and then only looks after it.
  - While the transaction of another run is at work on the host it waits for that one, and then does what is left to do.
  - Installs beside the kernels that are there and never removes a package.
options:
  desired_kernel:
    description: What C(uname -r) says when the kernel runs.
    type: str
    required: true
  state:
    description: V(downloaded) fills the package cache only. V(installed) makes the kernel the one that boots next, without a reboot.
    type: str
    choices: [downloaded, installed]
    required: true
  directory:
    description: The claim directory of the run, see M(fettle.patching.claim). The state of the transaction is kept in it.
    type: path
    required: true
  seconds_left:
    description: Seconds until the run's deadline. Nothing is started when it is zero or less.
    type: float
    required: true
  wait:
    description: Seconds to wait for the end of the transaction in this call.
    type: int
    default: 120
author:
  - The Fettle authors
"""

EXAMPLES = r"""
- name: Install the kernel
  fettle.patching.kernel_package:
    desired_kernel: 6.1.0-53-cloud-amd64
    state: installed
    directory: "{{ claim.path }}"
    seconds_left: 3600
  register: result
  until: result.finished | default(true)
  retries: 60
  delay: 0
"""

RETURN = r"""
finished:
  description: Whether the transaction is over. Until it is, nothing is known of its outcome.
  type: bool
  returned: always
msg:
  description: One sentence.
  type: str
  returned: always
log:
  description: The end of the package manager's output.
  type: str
  returned: when a transaction was carried out
report:
  description: kernel_after and the list of checks of the host's report.
  type: dict
  returned: success
"""

import os
import re
import subprocess
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fettle.patching.plugins.module_utils.host import (
    HostError,
    boot_files,
    bootable_kernels,
    boot_id,
    check,
    package_manager,
    running_kernel,
    valid_kernel,
    verdict,
)
from ansible_collections.fettle.patching.plugins.module_utils.transaction import Transaction


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            desired_kernel=dict(type="str", required=True),
            state=dict(type="str", choices=["downloaded", "installed"], required=True),
            directory=dict(type="path", required=True),
            seconds_left=dict(type="float", required=True),
            wait=dict(type="int", default=120),
        ),
        supports_check_mode=True,
    )
    try:
        Kernel(module).bring()
    except HostError as error:
        module.fail_json(msg=str(error), finished=True)
    except subprocess.CalledProcessError as error:
        module.fail_json(msg="cannot start the transaction: %s" % error.output, finished=True)


class Kernel(object):
    """The kernel that is to be brought to a state. Every method that answers ends the module."""

    def __init__(self, module):
        self.module = module
        self.name = valid_kernel(module.params["desired_kernel"])
        self.install = module.params["state"] == "installed"
        self.manager = package_manager(module)
        self.deadline = time.time() + module.params["wait"]
        directory = module.params["directory"].rstrip("/")
        self.own = Transaction(os.path.join(directory, "transaction"))
        self.other = Transaction.running_elsewhere(os.path.dirname(directory), self.own)

    def bring(self):
        """Do what is left to do."""
        if self.own.exists():
            self.look_after()
        attached = ""
        if self.other is not None:
            about = self.other.about()
            if not self.other.wait(self.seconds()):
                self.unfinished("waiting for the %(action)s of kernel %(kernel)s that another run started" % about, self.other)
            attached = ", by a transaction that was already running"
        present = self.manager.installed(self.name)
        if present:
            self.done("%s is installed%s" % (present, attached), changed=False)
        packages = self.resolve()
        if not self.install and self.manager.downloaded(packages):
            self.done("%s is downloaded%s" % (" ".join(packages), attached), changed=False)
        if self.module.check_mode:
            self.done("%s would be %s" % (" ".join(packages), self.module.params["state"]), changed=True)
        if self.module.params["seconds_left"] <= 0:
            raise HostError("the deadline has passed, nothing was started")
        self.start(packages)
        self.look_after()

    def seconds(self):
        """Seconds left of this call's wait."""
        return max(0, self.deadline - time.time())

    def resolve(self):
        """The exact packages; asks the repositories anew where that is this phase's business or nothing is known."""
        problem = None
        packages = [] if not self.install else self.manager.candidates(self.name)
        if not packages:
            problem = "not read anew in check mode" if self.module.check_mode else self.manager.refresh()
            packages = self.manager.candidates(self.name)
        if not packages:
            cause = " (repositories: %s)" % problem if problem else ""
            raise HostError("no enabled repository offers a package of kernel %s%s" % (self.name, cause))
        return packages

    def start(self, packages):
        """Start the transaction."""
        if self.install:
            commands = [self.manager.install(packages)] + self.manager.after_install(self.name)
        else:
            commands = [self.manager.download(packages)]
        action = "installation" if self.install else "download"
        about = {
            "action": action,
            "kernel": self.name,
            "kernels": bootable_kernels(),
            "packages": packages,
            "started": int(time.time()),
        }
        run = os.path.basename(os.path.dirname(self.own.directory))
        self.own.start("fettle-" + re.sub(r"[^a-z0-9-]", "-", run), about, commands)

    def look_after(self):
        """Wait for the transaction of this run, and judge it when it is over."""
        if not self.own.wait(self.seconds()):
            about = self.own.about()
            self.unfinished("%(action)s of kernel %(kernel)s is running" % about, self.own)
        status = self.own.status()
        if status is None:
            self.broken("the transaction was cut off (by a reboot or a kill) before it ended")
        if status != 0:
            lines = [line for line in self.own.log().splitlines() if line.strip() and not line.startswith("+ ")]
            self.broken("the package manager ended with %d: %s" % (status, " ".join(lines[-4:])[:600]))
        packages = self.own.about().get("packages", [])
        if self.install and not self.manager.installed(self.name):
            self.broken("the package manager ended well, but kernel %s is not installed" % self.name)
        if not self.install and not self.manager.downloaded(packages):
            self.broken("the package manager ended well, but %s is not in its cache" % " ".join(packages))
        self.done("%s is %s" % (" ".join(packages), self.module.params["state"]), changed=True, log=self.own.log())

    def unfinished(self, msg, transaction):
        """Answer that the end has yet to come. Not an answer a run may end with: retries that run out fail the task."""
        seconds = int(time.time() - transaction.about().get("started", time.time()))
        self.module.exit_json(changed=False, finished=False, msg="%s, for %d s now" % (msg, seconds))

    def broken(self, msg):
        """Answer that the transaction did not reach its end."""
        self.module.fail_json(msg=msg, finished=True, log=self.own.log())

    def done(self, msg, changed, **more):
        """Answer with the facts of the host, unless they contradict the package manager."""
        checks = [check("packages", True, msg)]
        if self.install and not (self.module.check_mode and changed):
            problem = boot_files(self.name)
            checks.append(check("boot-files", not problem, problem or "kernel %s can boot from /boot" % self.name))
            kernels, before = bootable_kernels(), self.own.about().get("kernels", [])
            # A host that never had a second kernel keeps what it has.
            least = min(2, len(set(before + [self.name])))
            checks.append(check("kernels-kept", len(kernels) >= least, "%d bootable: %s" % (len(kernels), ", ".join(kernels))))
        ok, causes = verdict(checks)
        report = {"kernel_after": running_kernel(), "boot_id_after": boot_id(), "checks": checks}
        answer = dict(changed=changed, finished=True, msg=msg if ok else causes, report=report, **more)
        if ok:
            self.module.exit_json(**answer)
        self.module.fail_json(**answer)


if __name__ == "__main__":
    main()
