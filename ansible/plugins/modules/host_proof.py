#!/usr/bin/python
"""Prove what a patched host runs."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: host_proof
short_description: Prove that a host runs the desired kernel, was rebooted and serves
version_added: 1.0.0
description:
  - Compares the running kernel with the desired one, the boot id with the one stored in the claim of the reboot phase, and reads the
    state of the services the host is there for.
  - A failed check is a result, not a failure of the module; see RV(ok).
options:
  desired_kernel:
    description: What C(uname -r) must say. Without it the kernel is not compared.
    type: str
    default: ''
  claim:
    description:
      - The claim directory of the reboot phase. Without it the boot id is not compared.
      - The boot id must differ from the one at the claim, unless the reboot phase found that no reboot was needed and stored that.
    type: path
    default: ''
  services:
    description: The systemd units that must be active. Without it no unit is looked at.
    type: list
    elements: str
  service_wait:
    description: Seconds to wait for units to become active.
    type: int
    default: 60
author:
  - The Fettle authors
"""

EXAMPLES = r"""
- name: Prove that this host is patched
  fettle.patching.host_proof:
    desired_kernel: 6.1.0-53-cloud-amd64
    claim: /var/lib/fettle/runs/v1-7p3k0c2m9x-reboot
    services: [nginx]
  register: result
  failed_when: not result.ok
"""

RETURN = r"""
ok:
  description: Whether every check holds.
  type: bool
  returned: success
msg:
  description: One sentence; names the checks that do not hold.
  type: str
  returned: success
report:
  description: kernel_after, boot_id_before, boot_id_after and the checks of the host's report.
  type: dict
  returned: success
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fettle.patching.plugins.module_utils.host import (
    HostError,
    boot_id,
    check,
    read,
    running_kernel,
    valid_kernel,
    verdict,
)


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            desired_kernel=dict(type="str", default=""),
            claim=dict(type="path", default=""),
            services=dict(type="list", elements="str"),
            service_wait=dict(type="int", default=60),
        ),
        supports_check_mode=True,
    )
    params = module.params
    report = {"kernel_after": running_kernel(), "boot_id_after": boot_id()}
    checks = []
    try:
        if params["desired_kernel"]:
            kernel = valid_kernel(params["desired_kernel"])
            running = running_kernel()
            checks.append(check("kernel", running == kernel, "%s runs, %s is desired" % (running, kernel)))
        elif params["claim"]:
            checks.append(check("kernel", False, "no desired kernel is given to compare with after the reboot"))
        else:
            checks.append(check("kernel", True, "%s runs; no desired kernel is given" % running_kernel()))
        if params["claim"]:
            before, entry = rebooted(params["claim"])
            checks.append(entry)
            if before:
                report["boot_id_before"] = before
        if params["services"] is not None:
            checks += services(module, params["services"], params["service_wait"])
    except HostError as error:
        module.fail_json(msg=str(error))
    report["checks"] = checks
    ok, msg = verdict(checks)
    module.exit_json(changed=False, ok=ok, msg=msg, report=report)


def rebooted(claim):
    """The boot id at the claim, and the check that compares it with today's."""
    before = read(os.path.join(claim, "boot_id"))
    if not before:
        return None, check("boot-id", False, "the reboot phase left no boot id on this host (%s)" % claim)
    if before != boot_id():
        return before, check("boot-id", True, "changed since the reboot phase began")
    if read(os.path.join(claim, "reboot")) == "not-needed":
        return before, check("boot-id", True, "unchanged, the reboot phase found that no reboot was needed")
    return before, check("boot-id", False, "the host has not been rebooted: the boot id is still %s" % before)


def services(module, units, wait):
    """One check for each unit, after they had the time to start."""
    if not units:
        return [check("services", True, "no services are named for this host")]
    deadline = time.time() + wait
    while True:
        checks, starting = look(module, units)
        if not starting or time.time() >= deadline:
            return checks
        time.sleep(2)


def look(module, units):
    """The checks of the units as they stand, and whether waiting can change them."""
    names = ["Id", "LoadState", "ActiveState", "SubState", "Result"]
    argv = ["systemctl", "show", "--property=" + ",".join(names), "--"] + units
    try:
        code, out, err = module.run_command(argv, handle_exceptions=False)
    except (IOError, OSError) as error:
        code, out, err = 1, "", str(error)
    if code != 0:
        text = (err or out).strip()
        return [check("service-" + unit, False, "its state cannot be read: %s" % text) for unit in units], False
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in out.strip().split("\n\n")]
    checks, starting = [], False
    # systemctl answers in the order it was asked.
    for unit, state in zip(units, blocks + [{}] * len(units)):
        active = state.get("ActiveState", "unknown")
        starting = starting or active == "activating"
        if state.get("LoadState") == "not-found":
            message = "the unit does not exist"
        else:
            message = "%s (%s, result %s)" % (active, state.get("SubState"), state.get("Result"))
        checks.append(check("service-" + unit, active in ("active", "reloading"), message))
    return checks, starting


if __name__ == "__main__":
    main()
