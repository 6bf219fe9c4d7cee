#!/usr/bin/python
"""Claim a run key on a host."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: claim
short_description: Claim a run key on a host, at most once
version_added: 1.0.0
description:
  - Makes the directory C(<directory>/<key>). Making a directory is atomic, so of any number of claimants exactly one succeeds.
  - The boot id and the running kernel at the time of the claim are stored in it, so that a later phase can prove a reboot.
  - The claim stays for ever, and survives a power failure. Deleting it allows the run to act on the host once more.
  - In check mode nothing is claimed.
options:
  directory:
    description: Where claims are kept.
    type: path
    default: /var/lib/fettle/runs
  key:
    description: The run key.
    type: str
    required: true
author:
  - The Fettle authors
"""

EXAMPLES = r"""
- name: Claim this run on this host
  fettle.patching.claim:
    key: v1-7p3k0c2m9x-apply
  register: claim
"""

RETURN = r"""
claimed:
  description: Whether this call made the claim (in check mode, whether it would). False means that another launch did before.
  type: bool
  returned: success
path:
  description: The claim directory.
  type: str
  returned: success
report:
  description: kernel_before and boot_id_before of the host's report.
  type: dict
  returned: success
"""

import errno
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.fettle.patching.plugins.module_utils.host import boot_id, running_kernel, sync_directory, write_durable

KEY = re.compile(r"^[a-z0-9][a-z0-9-]{7,127}\Z")


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec=dict(
            directory=dict(type="path", default="/var/lib/fettle/runs"),
            key=dict(type="str", required=True, no_log=False),
        ),
        supports_check_mode=True,
    )
    directory, key = module.params["directory"], module.params["key"]
    if not KEY.match(key):
        module.fail_json(msg="not a run key: %r" % key)
    path = os.path.join(directory, key)
    now = {"kernel_before": running_kernel(), "boot_id_before": boot_id()}
    try:
        if module.check_mode:
            claimed = not os.path.lexists(path)
        else:
            claimed = claim(directory, path, now)
    except (IOError, OSError) as error:
        # Anything but "exists" is not an answer: whether the host may be changed is unknown, so it may not.
        module.fail_json(msg="cannot claim the run on this host: %s" % error, path=path)
    module.exit_json(changed=claimed, claimed=claimed, path=path, report=now)


def claim(directory, path, now):
    """Make the claim; returns False when it exists. A claim whose record cannot be written stays, and raises."""
    if not os.path.isdir(directory):
        try:
            os.makedirs(directory, 0o700)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    write_durable(os.path.join(path, "kernel"), now["kernel_before"])
    write_durable(os.path.join(path, "boot_id"), now["boot_id_before"])
    sync_directory(directory)
    return True


if __name__ == "__main__":
    main()
