"""Reboot and postcheck as far as they go without rebooting this machine: connection local refuses a reboot. The rest runs on
virtual hosts, see test_fleet.py."""

import time

import pytest
from conftest import KERNEL, launch
from packages import apt_host, deb

NEW = "9.9.9-1-fettle-amd64"


@pytest.fixture
def host(ansible, root):
    """A host of the Debian family on which the new kernel is installed, not booted."""
    apt_host(root)
    deb(root, NEW)
    root.write("etc/no-ramdisk", "")
    root.run("apt-get", "-qq", "update")
    root.run("apt-get", "-qq", "-y", "install", f"linux-image-{NEW}")
    root.write("boot/initrd.img-" + NEW, "ramdisk")
    ansible.add_host("web-1", **root.variables())
    root.ansible = ansible
    return root


def reboot(host, *options, **changes):
    """Run the reboot phase."""
    changes = {"fettle_desired_kernel": NEW, **changes}
    return host.ansible.run("fettle.patching.reboot", launch("reboot", ["web-1"], **changes), *options)


def postcheck(host, **changes):
    """Run the postcheck after it."""
    variables = {"fettle_desired_kernel": KERNEL, "fettle_reboot_key": "v1-7p3k0c2m9xq4-reboot", **changes}
    return host.ansible.run("fettle.patching.postcheck", variables)


def hooks(host):
    """Make the commands around the reboot leave marks."""
    host.ansible.hosts["web-1"]["fettle_pre_reboot_commands"] = ["echo pre >> /var/tmp/hooks"]
    host.ansible.hosts["web-1"]["fettle_post_reboot_commands"] = ["echo post >> /var/tmp/hooks"]
    return host.path / "var/tmp/hooks"


@pytest.mark.every_ansible
def test_a_host_that_runs_the_kernel_is_left_alone_and_proven(host):
    marks = hooks(host)
    result = reboot(host, fettle_desired_kernel=KERNEL)
    assert result.code == 0, result.output
    report = result["web-1"]
    assert report["guard"] == "executed" and report["ok"] is True
    assert report["boot_id_before"] == report["boot_id_after"]
    assert report["kernel_before"] == report["kernel_after"] == KERNEL
    assert "no reboot was needed" in result.check("web-1", "boot-id")["message"]
    assert not marks.exists()

    result = postcheck(host)
    assert result.code == 0, result.output
    assert "no reboot was needed" in result.check("web-1", "boot-id")["message"]


def test_a_pending_reboot_is_a_reason_to_reboot(host):
    host.write("run/reboot-required", "")
    result = reboot(host, fettle_desired_kernel=KERNEL)
    assert "would reboot the control node" in result["web-1"]["message"], "it tried"


def test_a_host_without_the_kernel_is_not_rebooted(host):
    marks = hooks(host)
    result = reboot(host, fettle_desired_kernel="1.2.3-absent")
    assert result.code == 2
    assert "is not installed" in result["web-1"]["message"]
    assert not marks.exists()


def test_a_host_that_would_not_come_back_is_not_rebooted(host):
    (host.path / f"boot/initrd.img-{NEW}").write_text("")
    marks = hooks(host)
    result = reboot(host)
    assert "would not come back" in result["web-1"]["message"]
    assert not marks.exists()


def test_a_failed_command_before_the_reboot_keeps_the_host_up(host):
    host.ansible.hosts["web-1"]["fettle_pre_reboot_commands"] = ["echo draining is not possible >&2; false", "touch /var/tmp/second"]
    result = reboot(host)
    assert result.code == 2
    assert "draining is not possible" in result["web-1"]["message"]
    assert not (host.path / "var/tmp/second").exists()
    assert "control node" not in result.output, "no reboot was tried"


def test_the_deadline_is_looked_at_after_the_commands(host):
    marks = hooks(host)
    end = int(time.time()) + 25
    host.ansible.hosts["web-1"]["fettle_pre_reboot_commands"] += [f"while [ $(date +%s) -le {end} ]; do sleep 1; done"]
    result = reboot(host, fettle_not_after=end)
    assert result.code == 2
    assert "deadline passed before the reboot" in result["web-1"]["message"], result.output
    assert "control node" not in result.output, "no reboot was tried"
    assert marks.read_text() == "pre\npost\n", "the host is brought back"


def test_postcheck_tells_a_host_that_was_not_rebooted(host):
    reboot(host)
    result = postcheck(host, fettle_desired_kernel=NEW)
    assert result.code == 2
    assert result.check("web-1", "kernel")["message"] == f"{KERNEL} runs, {NEW} is desired"
    assert "has not been rebooted" in result.check("web-1", "boot-id")["message"]


def test_postcheck_sees_a_changed_boot_id(host):
    reboot(host)
    host.write("var/lib/fettle/runs/v1-7p3k0c2m9xq4-reboot/boot_id", "11111111-2222-3333-4444-555555555555\n")
    result = postcheck(host)
    assert result.code == 0, result.output
    assert result["web-1"]["boot_id_before"] == "11111111-2222-3333-4444-555555555555"
    assert result["web-1"]["boot_id_after"] != result["web-1"]["boot_id_before"]


def test_postcheck_without_the_claim_is_no_proof(host):
    result = postcheck(host)
    assert result.code == 2
    assert "left no boot id" in result.check("web-1", "boot-id")["message"]


def test_postcheck_of_a_run_without_reboot(host):
    result = postcheck(host, fettle_reboot_key="")
    assert result.code == 0, result.output
    assert [entry["name"] for entry in result["web-1"]["checks"]] == ["kernel", "services"]


def test_postcheck_after_a_reboot_needs_a_kernel(host):
    reboot(host, fettle_desired_kernel=KERNEL)
    result = postcheck(host, fettle_desired_kernel="")
    assert "no desired kernel" in result.check("web-1", "kernel")["message"]
    assert result["web-1"]["ok"] is False


STATES = """\
Id={0}.service
LoadState=loaded
ActiveState={1}
SubState=x
Result=success
"""


def test_postcheck_reads_the_services(host):
    """The answers of `systemctl show`, in the order of the question, separated by an empty line."""
    text = "\n".join([STATES.format("nginx", "active"), STATES.format("redis", "failed"), "Id=gone.service\nLoadState=not-found\n"])
    host.write("usr/bin/systemctl", f"#!/bin/sh\ncat <<'X'\n{text}X\n").chmod(0o755)
    host.ansible.hosts["web-1"]["fettle_services"] = ["nginx", "redis", "gone"]
    result = postcheck(host, fettle_reboot_key="")
    assert result.code == 2
    assert result.check("web-1", "service-nginx")["ok"] is True
    assert result.check("web-1", "service-redis")["message"].startswith("failed (x")
    assert result.check("web-1", "service-gone")["message"] == "the unit does not exist"


def test_postcheck_waits_for_services_that_start(host):
    script = "#!/bin/sh\n[ -e /started ] && s=active || s=activating; : >/started\n"
    host.write("usr/bin/systemctl", script + f"cat <<X\n{STATES.format('nginx', '$s')}X\n").chmod(0o755)
    host.ansible.hosts["web-1"]["fettle_services"] = ["nginx"]
    result = postcheck(host, fettle_reboot_key="")
    assert result.code == 0, result.output


def test_the_services_of_a_host_without_systemd_are_not_proven(host):
    host.ansible.hosts["web-1"]["fettle_services"] = ["nginx"]
    result = postcheck(host, fettle_reboot_key="")
    assert result.code == 2
    assert "its state cannot be read" in result.check("web-1", "service-nginx")["message"]
