"""Precheck, stage and apply against real package managers: apt and dpkg, dnf and rpm."""

import os
import signal
import subprocess
import time

import pytest
from conftest import KERNEL, launch
from packages import apt_host, deb, dnf_host, rpm


class Family:
    """How the two families differ, for the tests."""

    def __init__(self, name):
        self.name = name
        self.kernel = {"apt": "9.9.9-1-fettle-amd64", "dnf": "9.9.9-1.el9.x86_64"}[name]
        self.package = {"apt": f"linux-image-{self.kernel}", "dnf": f"kernel-core-{self.kernel}"}[name]
        self.make_host = {"apt": apt_host, "dnf": dnf_host}[name]
        self.make_kernel = {"apt": deb, "dnf": rpm}[name]

    def installed(self, root):
        """Whether the package is installed, as the family's own tool says."""
        if self.name == "apt":
            return f"ii  {self.package}" in root.run("dpkg", "-l")
        return self.package in root.run("rpm", "-qa").split()

    def cached(self, root):
        """Files of the package in the package manager's cache."""
        place = {"apt": "var/cache/apt/archives", "dnf": "var/cache/dnf"}[self.name]
        ending = {"apt": "*.deb", "dnf": "*.rpm"}[self.name]
        return sorted(file.name for file in (root.path / place).rglob(ending))


@pytest.fixture(params=["apt", "dnf"])
def family(request):
    """The package manager's family."""
    return Family(request.param)


@pytest.fixture
def host(family, ansible, root):
    """One host of the family with an offered kernel; runs of its playbooks are made with `play`."""
    family.make_host(root)
    family.make_kernel(root, family.kernel)
    ansible.add_host("web-1", **root.variables())
    root.ansible = ansible
    return root


def play(host, family, phase, *options, **changes):
    """Run a phase."""
    variables = launch(phase, ["web-1"], **{"fettle_desired_kernel": family.kernel, **changes})
    return host.ansible.run(f"fettle.patching.{phase}", variables, *options)


def bad(result):
    """Names of the checks that do not hold."""
    return [entry["name"] for entry in result["web-1"]["checks"] if not entry["ok"]]


@pytest.mark.every_ansible
def test_from_precheck_to_apply(host, family):
    result = play(host, family, "precheck")
    assert result.code == 0, result.output
    assert result["web-1"]["ok"] is True
    assert "guard" not in result["web-1"]
    assert family.package in result.check("web-1", "kernel-available")["message"]
    assert result["web-1"]["free_bytes"].keys() == {"/", "/boot", "/usr", "/var"} and result["web-1"]["free_bytes"]["/boot"] > 0
    assert len(result["web-1"]["repositories"]) == 1, result["web-1"]["repositories"]
    assert not family.cached(host) and not family.installed(host)

    result = play(host, family, "stage", "--check")
    assert result.code == 0 and not family.cached(host), result.output
    result = play(host, family, "stage")
    assert result.code == 0, result.output
    assert result["web-1"]["guard"] == "executed"
    assert len(family.cached(host)) == 1 and not family.installed(host)
    assert host.marks() == 0
    again = play(host, family, "stage", fettle_run_key="v1-second-stage")
    assert again.lines["web-1"]["changed"] == 1, "only the claim"
    assert "is downloaded" in again["web-1"]["message"]

    result = play(host, family, "apply", "--check")
    assert result.code == 0 and not family.installed(host), result.output
    assert result["web-1"]["guard"] == "check-mode"
    served = len(host.repository.served)
    result = play(host, family, "apply")
    assert result.code == 0, result.output
    assert result["web-1"]["guard"] == "executed"
    assert family.installed(host) and host.marks() == 1
    assert sorted(result.check("web-1", "kernels-kept")["message"].split(": ")[1].split(", ")) == sorted([KERNEL, family.kernel])
    assert not [path for path in host.repository.served[served:] if path.endswith((".deb", ".rpm"))], "it was staged"
    again = play(host, family, "apply", fettle_run_key="v1-second-apply")
    assert again.code == 0 and again.lines["web-1"]["changed"] == 1, "only the claim"
    assert host.marks() == 1

    result = play(host, family, "precheck")
    assert "is installed" in result.check("web-1", "kernel-available")["message"]


def test_precheck_finds_what_is_wrong(host, family):
    host.mounts.write_text(f"mount -t tmpfs -o size=20m tmpfs {host.path}/boot\n")
    holder = hold(host, {"apt": "/var/lib/dpkg/lock-frontend", "dnf": "/var/lib/rpm/.rpm.lock"}[family.name])
    try:
        result = play(host, family, "precheck", fettle_desired_kernel="1.2.3-absent", fettle_lock_wait=0)
    finally:
        holder.kill()
        holder.wait()
    assert result.code == 2
    assert bad(result) == ["boot-space", "package-lock", "repositories", "kernel-available"]
    assert "20 MiB free on /boot, 150 needed" in result["web-1"]["message"]
    assert f"pid {holder.pid}" in result.check("web-1", "package-lock")["message"]
    assert result.lines["web-1"]["failures"] == 1


def hold(host, lock):
    """A process that holds a lock of the host as package managers do."""
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(["python3", "-c", code, f"{host.path}{lock}"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_precheck_thresholds_of_the_host(host, family):
    host.ansible.hosts["web-1"]["fettle_min_free_mib"] = {"/srv/data": 10**9}
    result = play(host, family, "precheck")
    assert bad(result) == ["srv-data-space"]
    assert result.check("web-1", "boot-space")["ok"], "defaults stay"


def test_precheck_names_repositories_without_their_passwords(ansible, root):
    family = Family("apt")
    family.make_host(root)
    place = root.repository.url.split("://")[1]
    root.write("etc/apt/sources.list", f"deb [trusted=yes] http://robot:hunter2@{place} ./\n")
    ansible.add_host("web-1", **root.variables())
    root.ansible = ansible
    result = play(root, family, "precheck", fettle_desired_kernel=KERNEL)
    [name] = result["web-1"]["repositories"]
    assert name.startswith(place), name
    assert "hunter2" not in str(result["web-1"])


def test_precheck_finds_a_repository_that_does_not_answer(host, family):
    play(host, family, "precheck")
    host.repository.stop()
    result = play(host, family, "precheck")
    assert "repositories" in bad(result), result.output


@pytest.mark.parametrize(("offset", "words"), [(-120, "s behind"), (120, "s ahead of")])
def test_precheck_finds_a_wrong_clock(host, family, offset, words):
    """The host's Python reads a clock that is wrong, as sitecustomize makes it."""
    (library,) = host.path.glob("usr/lib/python3.[0-9]*")
    host.write(
        str(library.relative_to(host.path) / "sitecustomize.py"),
        f"import time\nright = time.time\ntime.time = lambda: right() + {offset}\n",
    )
    result = play(host, family, "precheck")
    assert bad(result) == ["clock"], result.output
    assert words in result.check("web-1", "clock")["message"]


def test_a_slow_connection_is_no_wrong_clock(host, family):
    """A host that takes long to begin and to answer."""
    text = host.python.read_text()
    host.python.write_text(text.replace("exec chroot", "sleep 3; chroot").replace('sh "$@"', 'sh "$@"; sleep 3').replace("exec unshare", "unshare"))
    result = play(host, family, "precheck", fettle_max_clock_skew=1)
    assert result.code == 0, result.output


def test_precheck_needs_no_repository_when_the_kernel_runs(host, family):
    result = play(host, family, "precheck", fettle_desired_kernel=KERNEL)
    assert result.code == 0, result.output
    assert "is running" in result.check("web-1", "kernel-available")["message"]


def test_no_package_of_the_kernel(host, family):
    for phase in ("stage", "apply"):
        result = play(host, family, phase, fettle_desired_kernel="1.2.3-absent")
        assert result.code == 2
        assert result["web-1"]["guard"] == "executed" and result["web-1"]["ok"] is False
        assert "no enabled repository offers a package of kernel 1.2.3-absent" in result["web-1"]["message"]


def test_a_kernel_that_cannot_boot_is_not_applied(host, family):
    """The package manager ends well, the initial RAM disk was not made."""
    host.write("etc/no-ramdisk", "")
    result = play(host, family, "apply")
    assert result.code == 2
    assert bad(result) == ["boot-files"] or "initial RAM disk" in result["web-1"]["message"], result.output


def test_a_failing_package_manager_is_told(host, family):
    host.mounts.write_text(f"mount -t tmpfs -o size=4k tmpfs {host.path}/boot\ndd if=/dev/zero of={host.path}/boot/x 2>/dev/null || :\n")
    result = play(host, family, "apply")
    assert result.code == 2, result.output
    assert {"apt": "No space left on device", "dnf": "more space needed on the /boot filesystem"}[family.name] in result.output
    assert result["web-1"]["ok"] is False and not family.installed(host)


def wait_for(condition, seconds=60):
    """Wait until something is so."""
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline, "it did not happen in time"
        time.sleep(0.2)


def test_a_cut_connection_does_not_cut_the_transaction(host, family):
    """Ansible is killed while packages are installed; another run finds the transaction and sees it end."""
    hold_back = host.write("etc/hold", "")
    variables = launch("apply", ["web-1"], fettle_desired_kernel=family.kernel)
    first = host.ansible.start("fettle.patching.apply", variables)
    wait_for(lambda: host.marks() == 1)
    os.killpg(first.child.pid, signal.SIGKILL)
    first()
    status = host.path / "var/lib/fettle/runs" / variables["fettle_run_key"] / "transaction/status"
    assert not status.exists()

    # The same launch again: claimed, so nothing is done and nothing is proven.
    assert host.ansible.run("fettle.patching.apply", variables).guards() == {"web-1": "already-claimed"}

    second = host.ansible.start("fettle.patching.apply", {**variables, "fettle_run_key": "v1-second-apply", "apply_wait": 2})
    wait_for(lambda: "RETRYING" in second.log.read_text())
    hold_back.unlink()
    result = second()
    assert result.code == 0, result.output
    assert family.installed(host) and host.marks() == 1
    assert status.read_text() == "0\n"
    assert not (status.parents[2] / "v1-second-apply/transaction").exists(), "it had nothing left to do"


def test_a_long_transaction_is_looked_at_until_it_ends(host, family):
    hold_back = host.write("etc/hold", "")
    variables = launch("apply", ["web-1"], fettle_desired_kernel=family.kernel, apply_wait=2)
    run = host.ansible.start("fettle.patching.apply", variables)
    wait_for(lambda: "RETRYING" in run.log.read_text())
    hold_back.unlink()
    result = run()
    assert result.code == 0, result.output
    assert result.lines["web-1"]["changed"] == 2, "the claim and the installation"


def test_a_transaction_that_does_not_end_in_time_is_an_error(host, family):
    hold_back = host.write("etc/hold", "")
    result = play(host, family, "apply", apply_wait=1, apply_retries=1)
    assert result.code == 2, result.output
    assert "is running, for" in result["web-1"]["message"]
    hold_back.unlink()
    wait_for(lambda: list(host.path.glob("var/lib/fettle/runs/*/transaction/status")))
    assert family.installed(host)


def test_a_transaction_killed_on_the_host_is_an_error(host, family):
    host.write("etc/hold", "")
    run = host.ansible.start("fettle.patching.apply", launch("apply", ["web-1"], fettle_desired_kernel=family.kernel))
    wait_for(lambda: host.marks() == 1)
    kill_transaction(host)
    result = run()
    assert result.code == 2
    assert "cut off" in result["web-1"]["message"], result.output
    assert result["web-1"]["guard"] == "executed"


def kill_transaction(host):
    """Kill the process group of the host's transaction, as a crash would."""
    script = b"/var/lib/fettle/runs/"
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open(f"/proc/{entry}/cmdline", "rb").read()
            if command.startswith(b"/bin/sh\0" + script) and os.readlink(f"/proc/{entry}/root") == str(host.path):
                os.killpg(os.getpgid(int(entry)), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
