#!/usr/bin/python
"""Decide whether a host has to be rebooted, and whether it may be."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: reboot_check
short_description: Decide whether a host has to be rebooted, and whether it may be
version_added: 1.0.0
description:
  - A host that runs the desired kernel and asks for no reboot has to be left alone. That decision is stored in the claim, where
    M(fettle.patching.host_proof) finds it when it compares boot ids.
  - Fails, before anything is disrupted, when the desired kernel could not boot or a package manager is at work.
  - In check mode nothing is stored.
options:
  desired_kernel:
    description: What C(uname -r) shall say after the reboot.
    type: str
    required: true
  directory:
    description: The claim directory of the run, see M(fettle.patching.claim).
    type: path
    required: true
  lock_wait:
    description: Seconds to wait for a package manager to end.
    type: int
    default: 30
author:
  - The Fettle authors
"""

EXAMPLES = r"""
- name: Decide whether this host has to be rebooted
  fettle.patching.reboot_check:
    desired_kernel: 6.1.0-53-cloud-amd64
    directory: "{{ claim.path }}"
  register: result
"""

RETURN = r"""
needed:
  description: Whether the host has to be rebooted.
  type: bool
  returned: success
msg:
  description: One sentence.
  type: str
  returned: always
report:
  description: kernel_before, boot_id_before and the checks of the host's report.
  type: dict
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fettle.patching.plugins.module_utils.host import (
    HostError,
    boot_files,
    boot_id,
    check,
    package_manager,
    running_kernel,
    valid_kernel,
    write_durable,
)
from ansible_collections.fettle.patching.plugins.module_utils.transaction import Transaction


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            desired_kernel=dict(type="str", required=True),
            directory=dict(type="path", required=True),
            lock_wait=dict(type="int", default=30),
        ),
        supports_check_mode=True,
    )
    try:
        needed, msg = decide(module)
    except HostError as error:
        module.fail_json(msg=str(error))
    directory = module.params["directory"]
    if not module.check_mode:
        write_durable(os.path.join(directory, "reboot"), "needed" if needed else "not-needed")
    report = {
        "kernel_before": running_kernel(),
        "boot_id_before": boot_id(),
        "checks": [check("reboot-needed", True, msg)],
    }
    module.exit_json(changed=False, needed=needed, msg=msg, report=report)


def decide(module):
    """Whether to reboot, and why; raises HostError when the host must not be rebooted now."""
    kernel = valid_kernel(module.params["desired_kernel"])
    manager = package_manager(module)
    pending = manager.reboot_required()
    if running_kernel() == kernel and not pending:
        return False, "kernel %s runs already and no reboot is pending" % kernel
    if not manager.installed(kernel) and running_kernel() != kernel:
        raise HostError("kernel %s is not installed, a reboot would not bring it: apply it first" % kernel)
    problem = boot_files(kernel)
    if problem:
        raise HostError("the host would not come back with kernel %s: %s" % (kernel, problem))
    directory = module.params["directory"].rstrip("/")
    other = Transaction.running_elsewhere(os.path.dirname(directory), Transaction(directory + "/transaction"))
    if other is not None and not other.wait(module.params["lock_wait"]):
        raise HostError("the %(action)s of kernel %(kernel)s is still running" % other.about())
    holder = manager.wait_for_lock(module.params["lock_wait"])
    if holder:
        raise HostError("a package manager is at work: %s" % holder)
    return True, "kernel %s runs, %s is installed%s" % (
        running_kernel(),
        kernel,
        "; pending: %s" % pending if pending else "",
    )


if __name__ == "__main__":
    main()
