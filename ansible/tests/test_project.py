"""The example project as an AAP controller runs it: through ansible-runner, with the report in the job's artifacts."""

import json
import os
import subprocess

import yaml
from conftest import COLLECTION, KERNEL, launch, venvs
from packages import apt_host

PROJECT = COLLECTION / "examples" / "project"


def test_the_report_is_an_artifact_of_the_job(collections, root, tmp_path):
    apt_host(root)
    (tmp_path / "inventory").mkdir()
    hosts = {"web-1": {"ansible_connection": "local", **root.variables()}}
    (tmp_path / "inventory" / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "env").mkdir()
    variables = launch("reboot", ["web-1"], awx_schedule_name="fettle-v1-7p3k0c2m9xq4-reboot")
    (tmp_path / "env" / "extravars").write_text(json.dumps(variables))
    venv = venvs()["current"]
    done = subprocess.run(
        [f"{venv}/bin/ansible-runner", "run", tmp_path, "--project-dir", PROJECT, "-p", "reboot.yml", "--ident", "job"],
        env={**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}", "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(file.read_text()) for file in (tmp_path / "artifacts/job/job_events").glob("*.json")]
    (stats,) = [event["event_data"] for event in events if event["event"] == "playbook_on_stats"]
    report = stats["artifact_data"]["fettle_report"]["web-1"]
    assert report["guard"] == "executed" and report["ok"] is True
    assert report["kernel_after"] == KERNEL


def test_each_template_has_its_playbook():
    for phase in ("stage", "apply", "reboot"):
        (play,) = yaml.safe_load((PROJECT / f"{phase}.yml").read_text())
        assert play["ansible.builtin.import_playbook"] == f"fettle.patching.{phase}"
