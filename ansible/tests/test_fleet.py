"""All five phases on real virtual hosts: real kernel packages, real services, real reboots.

Runs where the network of the test bed is, see run.sh: `tests/e2e/hosts/sandbox.sh ansible/tests/run.sh fleet`.
"""

import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest
from conftest import COLLECTION, Ansible, launch, venvs

HOSTS_SCRIPT = COLLECTION.parent / "tests/e2e/hosts/hosts"
HOSTS = ["web-1", "web-2", "db-1"]

pytestmark = pytest.mark.skipif("FETTLE_FLEET" not in os.environ, reason="needs the virtual hosts: run.sh fleet")


def hosts(*argv):
    """Run the script of the virtual hosts."""
    done = subprocess.run([HOSTS_SCRIPT, *argv], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


class Fleet:
    """Three fresh hosts. Checks run as in the checks image, with the oldest Ansible; changes as in AAP, with the newest."""

    def __init__(self, collections, work):
        self.work = work
        self.state = pathlib.Path(os.environ["FETTLE_BED"]) / "hosts"
        hosts("up")
        environment = dict(line.split("=", 1) for line in (self.state / "env").read_text().splitlines() if "=" in line)
        self.old, self.new = environment["OLD_KERNEL"].strip("'\""), environment["NEW_KERNEL"].strip("'\"")
        self.change = Ansible(venvs()["current"], collections, work)
        inventory = json.loads((self.state / "inventory.yml").read_text())["all"]
        self.change.hosts = {name: {**inventory["vars"], **own} for name, own in inventory["hosts"].items()}
        self.check_hosts = {name: dict(own) for name, own in inventory["hosts"].items()}
        self.checker = Ansible(venvs().get("floor", venvs()["current"]), collections, work)
        secret = work / "ssh"
        secret.mkdir()
        shutil.copy(self.state / "id", secret / "ssh-privatekey")

    def check(self, phase, **environment):
        """Run fettle-check; gives exit code, output and lines by host."""
        inventory, report = self.work / "inventory.json", self.work / "check.report"
        inventory.write_text(json.dumps({"all": {"hosts": self.check_hosts}}))
        report.unlink(missing_ok=True)
        begin = time.time()
        done = subprocess.run(
            [COLLECTION / "image" / "fettle-check"],
            env={
                **self.checker.environment,
                "FETTLE_PHASE": phase,
                "FETTLE_INVENTORY": str(inventory),
                "FETTLE_SSH_DIR": str(self.work / "ssh"),
                "FETTLE_KNOWN_HOSTS": str(self.state / "known_hosts"),
                "FETTLE_REPORT_FILE": str(report),
                "FETTLE_DESIRED_KERNEL": self.new,
                "FETTLE_HOSTS": json.dumps(HOSTS),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        print(f"{phase}: {time.time() - begin:.0f} s, exit code {done.returncode}", flush=True)
        lines = {line["host"]: line for line in map(json.loads, report.read_text().splitlines())}
        return done.returncode, done.stdout + done.stderr, lines

    def run(self, phase, *options, **changes):
        """Run a change phase."""
        begin = time.time()
        variables = launch(phase, HOSTS, fettle_desired_kernel=self.new, fettle_not_after=int(time.time()) + 3600, **changes)
        result = self.change.run(f"fettle.patching.{phase}", variables, *options)
        print(f"{phase}: {time.time() - begin:.0f} s, exit code {result.code}", flush=True)
        return result

    def each(self, command):
        """What a command prints on every host."""
        return [hosts("ssh", name, command) for name in HOSTS]

    def boot_ids(self):
        """The boot id of every host."""
        return self.each("cat /proc/sys/kernel/random/boot_id")


@pytest.fixture(scope="module")
def fleet(collections, tmp_path_factory):
    """The fleet; its hosts end with the tests."""
    yield Fleet(collections, tmp_path_factory.mktemp("fleet"))
    hosts("down")


def test_five_phases(fleet):
    before = fleet.boot_ids()
    assert fleet.each("uname -r") == [fleet.old] * 3

    code, output, lines = fleet.check("precheck")
    assert code == 0, output
    assert all(lines[name]["report"]["ok"] for name in HOSTS)

    result = fleet.run("stage")
    assert result.code == 0, result.output
    assert result.guards() == dict.fromkeys(HOSTS, "executed")
    assert all("No such file" not in text for text in fleet.each(f"ls /var/cache/apt/archives/linux-image-{fleet.new}_*.deb"))

    result = fleet.run("apply")
    assert result.code == 0, result.output
    assert result.guards() == dict.fromkeys(HOSTS, "executed")
    assert fleet.each("uname -r") == [fleet.old] * 3 and fleet.boot_ids() == before, "no reboot yet"
    assert fleet.each("ls /boot/vmlinuz-* | wc -l") == ["2"] * 3
    # The package manager ran in a unit of its own, not in the session of the connection.
    journal = fleet.each("journalctl -q -u 'fettle-*' -o cat 2>/dev/null | head -5; ls /var/lib/fettle/runs/*-apply/transaction")
    assert all("status" in text for text in journal)

    for name in HOSTS:
        for when, word in (("pre", "drained"), ("post", "back")):
            commands = [f"echo {word} >> /var/tmp/hooks", "cat /proc/sys/kernel/random/boot_id >> /var/tmp/hooks"]
            fleet.change.hosts[name][f"fettle_{when}_reboot_commands"] = commands
    rehearsal = fleet.run("reboot", "--check", fettle_reboot_serial="3")
    assert rehearsal.code == 0, rehearsal.output
    assert rehearsal.guards() == dict.fromkeys(HOSTS, "check-mode")
    assert fleet.boot_ids() == before
    result = fleet.run("reboot", fettle_reboot_serial="2", fettle_reboot_max_fail_percentage=0)
    assert result.code == 0, result.output
    assert result.guards() == dict.fromkeys(HOSTS, "executed")
    after = fleet.boot_ids()
    for index, name in enumerate(HOSTS):
        assert result[name]["kernel_before"] == fleet.old and result[name]["kernel_after"] == fleet.new
        assert result[name]["boot_id_before"] == before[index] and result[name]["boot_id_after"] == after[index]
        assert hosts("ssh", name, "cat /var/tmp/hooks").split() == ["drained", before[index], "back", after[index]]
    assert fleet.each("uname -r") == [fleet.new] * 3

    code, output, lines = fleet.check("postcheck", FETTLE_REBOOT_KEY="v1-7p3k0c2m9xq4-reboot")
    assert code == 0, output
    for name in HOSTS:
        checks = {entry["name"]: entry for entry in lines[name]["report"]["checks"]}
        assert checks["boot-id"]["message"] == "changed since the reboot phase began"
        assert all(entry["ok"] for entry in checks.values())
        assert [check for check in checks if check.startswith("service-")], "its role's service was read"

    again = fleet.run("reboot", fettle_reboot_serial="3")
    assert again.guards() == dict.fromkeys(HOSTS, "already-claimed")
    assert fleet.boot_ids() == after, "no host is rebooted twice"


def test_checks_tell_what_is_wrong(fleet):
    hosts("fill-boot", "web-1", "5")
    hosts("hold-lock", "web-2")
    hosts("ssh", "db-1", "systemctl stop redis-server")
    code, _output, lines = fleet.check("precheck")
    assert code == 2
    wrong = {name: [entry["name"] for entry in lines[name]["report"]["checks"] if not entry["ok"]] for name in HOSTS}
    assert "boot-space" in wrong["web-1"]
    assert wrong["web-2"] == ["package-lock", "repositories"]
    assert wrong["db-1"] == []

    code, output, lines = fleet.check("postcheck")
    assert code == 2, output
    wrong = {name: [entry["name"] for entry in lines[name]["report"]["checks"] if not entry["ok"]] for name in HOSTS}
    assert wrong == {"web-1": [], "web-2": [], "db-1": ["service-redis-server"]}


def test_a_host_with_another_key_or_down_is_unreachable(fleet):
    # What answers at web-1 has not the key that is known of web-2.
    fleet.check_hosts["web-1"]["ansible_ssh_common_args"] = f"-o HostKeyAlias={fleet.check_hosts['web-2']['ansible_host']}"
    hosts("down", "web-2")
    try:
        code, output, lines = fleet.check("postcheck", ANSIBLE_TIMEOUT="5", ANSIBLE_SSH_RETRIES="0")
    finally:
        del fleet.check_hosts["web-1"]["ansible_ssh_common_args"]
    assert code & 4, output
    assert "Host key verification failed" in output
    assert [lines[name]["unreachable"] for name in HOSTS] == [1, 1, 0]
    assert lines["web-1"]["report"] is None and lines["web-2"]["report"] is None
