"""The guard: a change phase acts at most once on each host, only on the hosts and before the time it was meant for."""

import json
import time

import pytest
from conftest import HERE, KERNEL, launch

HOSTS = ["web-1", "web-2", "db-1"]
PLAYBOOK = HERE / "guarded.yml"

pytestmark = pytest.mark.every_ansible


@pytest.fixture
def three(ansible):
    """Three hosts."""
    for name in HOSTS:
        ansible.add_host(name)
    return ansible


def marks(ansible):
    """How often each host was acted upon."""
    files = {name: ansible.runs(name) / "marks" for name in HOSTS}
    return [len(file.read_text().splitlines()) if file.exists() else 0 for file in files.values()]


def test_acts_on_every_host_and_says_so(three):
    result = three.run(PLAYBOOK, launch("apply", HOSTS))
    assert result.code == 0, result.output
    assert result.guards() == dict.fromkeys(HOSTS, "executed")
    assert marks(three) == [1, 1, 1]
    boot_id = open("/proc/sys/kernel/random/boot_id").read()
    for name in HOSTS:
        claim = three.runs(name) / "v1-7p3k0c2m9xq4-apply"
        assert (claim / "boot_id").read_text() == boot_id
        assert (claim / "kernel").read_text().strip() == KERNEL
        assert result[name]["ok"] is True
        assert result[name]["boot_id_before"] == boot_id.strip()
    assert '"guard": "executed"' in result.output
    assert "DEPRECATION" not in result.output and "WARNING" not in result.output


def test_twelve_launches_at_once_act_once(three):
    variables = launch("apply", HOSTS)
    runs = [three.start(PLAYBOOK, variables) for _ in range(12)]
    results = [run() for run in runs]
    assert marks(three) == [1, 1, 1]
    for name in HOSTS:
        guards = sorted(result.guards()[name] for result in results)
        assert guards == ["already-claimed"] * 11 + ["executed"]


def test_second_launch_does_nothing_and_is_no_proof(three):
    variables = launch("apply", HOSTS)
    three.run(PLAYBOOK, variables)
    result = three.run(PLAYBOOK, variables)
    assert result.code == 0
    assert result.guards() == dict.fromkeys(HOSTS, "already-claimed")
    assert not any(result[name]["ok"] for name in HOSTS)
    assert marks(three) == [1, 1, 1]


REFUSED = {
    "nothing arrived": ({name: None for name in launch("apply", [])}, "fettle_run_key is missing"),
    "no key": ({"fettle_run_key": None}, "fettle_run_key is missing"),
    "key of a path": ({"fettle_run_key": "../../../tmp/evil"}, "fettle_run_key is missing or malformed"),
    "key with a newline": ({"fettle_run_key": "v1-7p3k0c2m9xq4\n"}, "fettle_run_key is missing or malformed"),
    "no phase": ({"fettle_phase": None}, "fettle_phase is not apply"),
    "another phase": ({"fettle_phase": "reboot"}, "fettle_phase is not apply"),
    "no hosts": ({"fettle_hosts": None}, "fettle_hosts is missing"),
    "hosts as text": ({"fettle_hosts": "web-1,web-2,db-1"}, "fettle_hosts is missing or not a list"),
    "hosts as a mapping": ({"fettle_hosts": dict.fromkeys(HOSTS, 1)}, "fettle_hosts is missing or not a list"),
    "no host": ({"fettle_hosts": []}, "not in fettle_hosts"),
    "no time": ({"fettle_not_after": None}, "fettle_not_after is missing"),
    "time as words": ({"fettle_not_after": "tomorrow"}, "fettle_not_after is missing"),
    "expired": ({"fettle_not_after": int(time.time()) - 1}, "expired"),
    "no kernel": ({"fettle_desired_kernel": None}, "fettle_desired_kernel is missing"),
    "kernel with a glob": ({"fettle_desired_kernel": "6.1*"}, "fettle_desired_kernel is missing or malformed"),
    "schedule of another run": ({"awx_schedule_name": "fettle-v1-other-apply"}, "belongs to another run"),
    "schedule of a longer key": ({"awx_schedule_name": "fettle-v1-7p3k0c2m9xq4-apply2"}, "belongs to another run"),
    "schedule by hand": ({"awx_schedule_name": "nightly"}, "belongs to another run"),
    "tower schedule by hand": ({"tower_schedule_name": "nightly"}, "belongs to another run"),
}


def test_refuses(ansible):
    """Each case is a host whose own variables are those of the launch."""
    names = {case: case.replace(" ", "-") for case in REFUSED}
    for case, (changes, _message) in REFUSED.items():
        changes = {**changes}
        if changes.get("fettle_hosts"):
            changes["fettle_hosts"] = json.loads(json.dumps(changes["fettle_hosts"]).replace("web-1", names[case]))
        ansible.add_host(names[case], **launch("apply", list(names.values()), **changes))
    result = ansible.run(PLAYBOOK)
    assert result.code == 2, result.output
    assert result.guards() == dict.fromkeys(names.values(), "refused")
    for case, (_changes, message) in REFUSED.items():
        assert result[names[case]]["ok"] is False
        assert message in result[names[case]]["message"]
        assert result.lines[names[case]]["failures"] == 1
        assert not ansible.runs(names[case]).exists()


def test_refuses_all_when_the_variables_were_dropped(three):
    result = three.run(PLAYBOOK)
    assert result.code == 2
    assert result.guards() == dict.fromkeys(HOSTS, "refused")
    assert marks(three) == [0, 0, 0]


@pytest.mark.parametrize("name", ["fettle-v1-7p3k0c2m9xq4-apply", "fettle-v1-7p3k0c2m9xq4-apply-try2"])
def test_accepts_its_own_schedules(three, name):
    result = three.run(PLAYBOOK, launch("apply", HOSTS, awx_schedule_name=name))
    assert result.guards() == dict.fromkeys(HOSTS, "executed")


def test_refuses_only_the_hosts_that_are_not_listed(three):
    result = three.run(PLAYBOOK, launch("apply", ["web-1", "db-1"]))
    assert result.guards() == {"web-1": "executed", "web-2": "refused", "db-1": "executed"}
    assert marks(three) == [1, 0, 1]


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Asia/Tokyo"])
def test_compares_instants_in_every_time_zone(three, zone):
    environment = {"TZ": zone}
    late = three.run(PLAYBOOK, launch("apply", HOSTS, fettle_not_after=int(time.time()) - 60), environment=environment)
    assert set(late.guards().values()) == {"refused"}
    early = three.run(PLAYBOOK, launch("apply", HOSTS, fettle_not_after=int(time.time()) + 60), environment=environment)
    assert set(early.guards().values()) == {"executed"}


def test_a_claim_that_cannot_be_made_is_refused_not_skipped(three):
    three.runs("web-1").parent.mkdir()
    three.runs("web-1").write_text("a file where the directory should be")
    result = three.run(PLAYBOOK, launch("apply", HOSTS))
    assert result.code == 2
    assert result.guards() == {"web-1": "refused", "web-2": "executed", "db-1": "executed"}
    assert "cannot claim the run on this host" in result["web-1"]["message"]


def test_check_mode_claims_nothing_and_proves_nothing(three):
    variables = launch("apply", HOSTS)
    result = three.run(PLAYBOOK, variables, "--check")
    assert result.code == 0
    assert result.guards() == dict.fromkeys(HOSTS, "check-mode")
    assert not any(three.runs(name).exists() for name in HOSTS)
    assert three.run(PLAYBOOK, variables).guards() == dict.fromkeys(HOSTS, "executed")


def test_stops_when_too_many_hosts_were_lost(three):
    three.hosts["web-1"]["ansible_connection"] = "ssh"
    three.hosts["web-1"]["ansible_host"] = "127.0.0.1"
    three.hosts["web-1"]["ansible_port"] = 1
    variables = launch("apply", HOSTS, serial=2, max_lost=20)
    result = three.run(PLAYBOOK, variables)
    assert result.lines["web-1"]["unreachable"] == 1
    assert result.lines["web-1"]["report"] is None
    assert result.guards() == {"web-1": None, "web-2": "executed", "db-1": "refused"}
    assert "too many hosts of this run were lost: 1 of 3" in result["db-1"]["message"]


def test_one_json_object_of_each_host_is_in_the_log(three):
    output = three.run(PLAYBOOK, launch("apply", ["web-1"])).output
    task = output.split("TASK [fettle.patching.report : Print the report of this host]")[1]
    text = task.split("ok: [web-2] => ")[1]
    printed, _end = json.JSONDecoder().raw_decode(text)
    assert printed["msg"]["guard"] == "refused"


def test_hands_the_reports_over_as_stats(three):
    """`set_stats` is what a controller keeps as the job's artifacts."""
    output = three.run(PLAYBOOK, launch("apply", HOSTS), environment={"ANSIBLE_SHOW_CUSTOM_STATS": "1"}).output
    stats = output.split("CUSTOM STATS:")[1]
    assert "fettle_report" in stats
    assert stats.count("executed") == 3
