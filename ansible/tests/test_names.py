"""Kernel names, and what may not pass as one."""

import importlib.util

import pytest
from conftest import COLLECTION

SPEC = importlib.util.spec_from_file_location("host", COLLECTION / "plugins/module_utils/host.py")
host = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(host)


@pytest.mark.parametrize(
    ("kernel", "packages"),
    [
        ("5.14.0-503.el9.x86_64", ["kernel-core-5.14.0-503.el9.x86_64", "kernel-5.14.0-503.el9.x86_64"]),
        ("5.14.0-503.el9.x86_64+rt", ["kernel-rt-core-5.14.0-503.el9.x86_64", "kernel-rt-5.14.0-503.el9.x86_64"]),
        ("6.12.0-1.el10.aarch64+64k", ["kernel-64k-core-6.12.0-1.el10.aarch64", "kernel-64k-6.12.0-1.el10.aarch64"]),
    ],
)
def test_packages_of_the_rhel_family(kernel, packages):
    assert host.Dnf(None)._names(kernel) == packages


@pytest.mark.parametrize("kernel", ["", "-rf", "6.1*", "6.1 0", "6.1;reboot", "6.1\n", "$(id)", "6.1/../..", "x" * 129])
def test_refused_kernels(kernel):
    with pytest.raises(host.HostError, match="uname -r"):
        host.valid_kernel(kernel)


def test_verdict_names_what_is_wrong():
    checks = [host.check("clock", True, "fine"), host.check("boot-space", False, "1 MiB free on /boot, 150 needed")]
    assert host.verdict(checks) == (False, "1 of 2 checks failed: boot-space: 1 MiB free on /boot, 150 needed")
    assert host.verdict(checks[:1]) == (True, "1 of 1 checks passed")
