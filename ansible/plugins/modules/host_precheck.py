#!/usr/bin/python
"""Find out whether a host can be patched."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: host_precheck
short_description: Find out whether a host can be patched to a kernel
version_added: 1.0.0
description:
  - Looks at everything that makes a kernel patch fail later, in one call, and changes nothing but the package manager's metadata cache.
  - Not even that in check mode.
  - A failed check is a result, not a failure of the module; see RV(ok).
options:
  desired_kernel:
    description: What C(uname -r) shall say after the patch. Without it the kernel is not looked for.
    type: str
    default: ''
  min_free_mib:
    description: Free space in MiB that a directory's file system must have. The directories need not be file systems of their own.
    type: dict
    default: {}
  lock_wait:
    description: Seconds to wait for another package manager to end.
    type: int
    default: 30
  max_clock_skew:
    description: Seconds by which the clocks of host and controller may differ. The time that the connection takes does not count.
    type: int
    default: 30
author:
  - The Fettle authors
"""

EXAMPLES = r"""
- name: Find out whether this host can be patched
  fettle.patching.host_precheck:
    desired_kernel: 6.1.0-53-cloud-amd64
    min_free_mib:
      /boot: 200
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
  description: The host's report, with kernel_before, boot_id_before, free_bytes by directory, repositories and the list of checks.
  type: dict
  returned: success
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fettle.patching.plugins.module_utils.host import (
    HostError,
    bootable_kernels,
    boot_id,
    check,
    package_manager,
    running_kernel,
    valid_kernel,
    verdict,
)

MIB = 1024 * 1024
#: statvfs flag of a file system that is mounted read only.
READ_ONLY = 1


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            desired_kernel=dict(type="str", default=""),
            min_free_mib=dict(type="dict", default={}),
            lock_wait=dict(type="int", default=30),
            max_clock_skew=dict(type="int", default=30),
        ),
        supports_check_mode=True,
    )
    params = module.params
    # The action plugin of the same name compares these with the controller's clock.
    begun = time.time()
    try:
        manager = package_manager(module)
        checks = [space(path, need) for path, need in sorted(params["min_free_mib"].items())]
        checks += packages(manager, params["desired_kernel"], params["lock_wait"])
    except HostError as error:
        module.fail_json(msg=str(error))
    ok, msg = verdict(checks)
    report = {
        "kernel_before": running_kernel(),
        "boot_id_before": boot_id(),
        "free_bytes": free_bytes(),
        "repositories": manager.repositories(),
        "checks": checks,
    }
    module.exit_json(changed=False, ok=ok, msg=msg, report=report, begun=begun, ended=time.time())


def space(path, need):
    """Free space of the file system that holds `path`, which must also be writable and have free inodes."""
    name = (path.strip("/").replace("/", "-") or "root") + "-space"
    try:
        need = int(need)
    except (TypeError, ValueError):
        raise HostError("fettle_min_free_mib of %s must be a number of MiB, got %r" % (path, need))
    place = path
    while not os.path.exists(place):
        place = os.path.dirname(place) or "/"
    stat = os.statvfs(place)
    if stat.f_flag & READ_ONLY:
        return check(name, False, "%s is mounted read only" % path)
    if stat.f_files and stat.f_favail < 1000:
        return check(name, False, "%d free inodes on %s, 1000 needed" % (stat.f_favail, path))
    free = stat.f_bavail * stat.f_frsize // MIB
    return check(name, free >= need, "%d MiB free on %s, %d needed" % (free, path, need))


def free_bytes():
    """Free bytes of the directories that a patch fills, for what is known of the host later."""
    found = {}
    for path in ("/", "/boot", "/usr", "/var"):
        if os.path.isdir(path):
            stat = os.statvfs(path)
            found[path] = stat.f_bavail * stat.f_frsize
    return found


def packages(manager, kernel, lock_wait):
    """The checks that ask the package manager: lock, repositories, database, kernel, pending reboot."""
    holder = manager.wait_for_lock(lock_wait)
    yield check("package-lock", not holder, "held: %s" % holder if holder else "no package manager is running")
    if manager.module.check_mode:
        yield check("repositories", True, "not read anew in check mode")
    elif holder:
        yield check("repositories", False, "cannot be read while the package manager is locked")
    else:
        problem = manager.refresh()
        yield check("repositories", not problem, problem or "every repository answers")
    problem = manager.database_problem()
    yield check("package-database", not problem, problem or "consistent")
    if kernel:
        yield available(manager, valid_kernel(kernel))
    newest = [name for name in bootable_kernels() if name != running_kernel()]
    pending = manager.reboot_required()
    message = "pending: %s" % pending if pending else "not required"
    yield check("reboot-pending", True, "%s; other bootable kernels: %s" % (message, ", ".join(newest) or "none"))


def available(manager, kernel):
    """Whether the host has the kernel or can get and install it."""
    installed = manager.installed(kernel)
    if installed:
        return check("kernel-available", True, "%s is installed" % installed)
    if kernel == running_kernel():
        return check("kernel-available", True, "%s is running" % kernel)
    packages_ = manager.candidates(kernel)
    if not packages_:
        return check("kernel-available", False, "no enabled repository offers a package of kernel %s" % kernel)
    conflict = manager.conflict(packages_)
    names = " ".join(packages_)
    return check("kernel-available", not conflict, "%s cannot be installed: %s" % (names, conflict) if conflict else names)


if __name__ == "__main__":
    main()
