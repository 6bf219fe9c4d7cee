"""The entry program of the checks image, with a real Ansible."""

import json
import os
import signal
import subprocess
import time

import pytest
from conftest import COLLECTION, KERNEL

PROGRAM = COLLECTION / "image" / "fettle-check"

pytestmark = pytest.mark.every_ansible


@pytest.fixture
def check(ansible):
    """Runs fettle-check as a pod would; gives exit code, output and report by host."""
    ansible.add_host("web-1")
    work = ansible.work
    secret = work / "ssh"
    secret.mkdir()
    (secret / "ssh-privatekey").write_text("not a key")
    (secret / "ssh-privatekey").chmod(0o644)
    (secret / "known_hosts").write_text("")
    temporary = work / "tmp"
    temporary.mkdir()

    def environment(changes):
        (work / "inventory.json").write_text(json.dumps({"all": {"hosts": ansible.hosts}}))
        everything = {
            **ansible.environment,
            "TMPDIR": str(temporary),
            "FETTLE_PHASE": "postcheck",
            "FETTLE_INVENTORY": str(work / "inventory.json"),
            "FETTLE_SSH_DIR": str(secret),
            "FETTLE_REPORT_FILE": str(work / "report"),
            "FETTLE_DESIRED_KERNEL": KERNEL,
            "FETTLE_HOSTS": '["web-1"]',
            "FETTLE_NOT_AFTER": "1900000000",
            **changes,
        }
        return {name: value for name, value in everything.items() if value is not None}

    def run(**changes):
        done = subprocess.run([PROGRAM], env=environment(changes), capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in (work / "report").read_text().splitlines()] if (work / "report").exists() else []
        assert not list(temporary.iterdir()), "the copy of the key is gone"
        return done.returncode, done.stdout + done.stderr, {line["host"]: line for line in lines}

    run.ansible = ansible
    run.environment = environment
    run.temporary = temporary
    return run


def test_runs_the_phase_and_leaves_a_report(check):
    code, output, lines = check()
    assert code == 0, output
    assert lines["web-1"]["report"]["ok"] is True
    assert lines["web-1"]["report"]["phase"] == "postcheck"
    assert "guard" not in lines["web-1"]["report"]


def test_exit_code_of_a_bad_host(check):
    code, output, lines = check(FETTLE_DESIRED_KERNEL="1.2.3-absent")
    assert code == 2, output
    assert lines["web-1"]["failures"] == 1 and lines["web-1"]["report"]["ok"] is False


def test_exit_code_of_an_unreachable_host(check):
    check.ansible.add_host("web-2", ansible_connection="ssh", ansible_host="127.0.0.1", ansible_port=1)
    code, output, lines = check(ANSIBLE_SSH_RETRIES="0")
    assert code == 4, output
    assert lines["web-2"]["unreachable"] == 1 and lines["web-2"]["report"] is None
    assert lines["web-1"]["report"]["ok"] is True


REFUSED = {
    "no phase": ({"FETTLE_PHASE": None}, "FETTLE_PHASE is not set"),
    "a change phase": ({"FETTLE_PHASE": "reboot"}, "FETTLE_PHASE must be one of precheck, postcheck"),
    "another playbook": ({"FETTLE_PHASE": "../../evil"}, "FETTLE_PHASE must be one of"),
    "no inventory": ({"FETTLE_INVENTORY": None}, "FETTLE_INVENTORY is not set"),
    "absent inventory": ({"FETTLE_INVENTORY": "/nowhere"}, "/nowhere does not exist"),
    "no secret": ({"FETTLE_SSH_DIR": "/nowhere"}, "/nowhere does not exist"),
    "no known hosts": ({"FETTLE_KNOWN_HOSTS": "/nowhere"}, "/nowhere does not exist"),
    "hosts as text": ({"FETTLE_HOSTS": "web-1"}, "FETTLE_HOSTS must be a JSON list"),
    "time as text": ({"FETTLE_NOT_AFTER": "soon"}, "FETTLE_NOT_AFTER must be epoch seconds"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(check, case):
    changes, message = REFUSED[case]
    code, output, lines = check(**changes)
    assert code == 64
    assert message in output
    assert not lines


def test_known_hosts_are_required(check):
    os.unlink(check.ansible.work / "ssh" / "known_hosts")
    code, output, _lines = check()
    assert code == 64 and "no known hosts" in output


def test_values_are_data(check):
    code, output, lines = check(FETTLE_DESIRED_KERNEL="{{ lookup('pipe', 'touch /tmp/fettle-injected') }}")
    assert code == 2, output
    assert not os.path.exists("/tmp/fettle-injected")
    assert not lines["web-1"]["report"]["ok"]


def test_stopping_it_stops_ansible_and_removes_the_key(check):
    check.ansible.hosts["web-1"]["fettle_services"] = ["no-such-unit"]
    check.ansible.hosts["web-1"]["ansible_python_interpreter"] = str(check.ansible.work / "slow")
    (check.ansible.work / "slow").write_text("#!/bin/sh\nsleep 20\n")
    (check.ansible.work / "slow").chmod(0o755)
    child = subprocess.Popen([PROGRAM], env=check.environment({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 30
    while not list(check.temporary.glob("*/id")):
        assert time.time() < deadline
        time.sleep(0.1)
    (key,) = check.temporary.glob("*/id")
    assert key.stat().st_mode & 0o777 == 0o600
    time.sleep(2)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) != 0
    assert not list(check.temporary.iterdir())
