"""Fixtures: the built and installed collection, ansible-playbook runs, and hosts.

A host is either a name with claims of its own (connection local), or a copy of a Debian root file system in which the modules
run by chroot: real apt, dpkg, dnf and rpm, on packages that the test builds.
"""

import functools
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import textwrap
import threading
import time

import pytest

HERE = pathlib.Path(__file__).parent
COLLECTION = HERE.parent
KERNEL = os.uname().release


def venvs():
    """The Python environments to test with, by name; run.sh names them."""
    given = os.environ.get("FETTLE_VENVS")
    if given:
        return dict(pair.split("=", 1) for pair in given.split())
    return {"current": subprocess.check_output([COLLECTION / "venv.sh"], text=True).strip()}


def pytest_configure(config):
    """Register our marker."""
    config.addinivalue_line("markers", "every_ansible: run with every environment; other tests run with the first one")


def pytest_collection_modifyitems(config, items):
    """Most tests are about what happens on the host, which is the same for every Ansible."""
    names = sorted(venvs())
    drop = [
        item
        for item in items
        if getattr(item, "callspec", None)
        and item.callspec.params.get("ansible", names[0]) != names[0]
        and not item.get_closest_marker("every_ansible")
    ]
    config.hook.pytest_deselected(items=drop)
    items[:] = [item for item in items if item not in drop]


@pytest.fixture(scope="session")
def collections(tmp_path_factory):
    """A collections path with the collection as `ansible-galaxy` builds and installs it."""
    work = tmp_path_factory.mktemp("collections")
    galaxy = pathlib.Path(next(iter(venvs().values()))) / "bin" / "ansible-galaxy"
    subprocess.run([galaxy, "collection", "build", "--output-path", work, COLLECTION], check=True, capture_output=True)
    (artifact,) = work.glob("*.tar.gz")
    subprocess.run([galaxy, "collection", "install", "--offline", "-p", work, artifact], check=True, capture_output=True)
    return work


class Result:
    """What an ansible-playbook run left: exit code, output, and the report file's lines by host."""

    def __init__(self, code, output, lines):
        self.code = code
        self.output = output
        self.lines = lines

    def __getitem__(self, host):
        """The report that a host handed over."""
        return self.lines[host]["report"]

    def check(self, host, name):
        """One entry of the host's checks."""
        (entry,) = [entry for entry in self[host]["checks"] if entry["name"] == name]
        return entry

    def guards(self):
        """The guard's outcome of every host."""
        return {host: (line["report"] or {}).get("guard") for host, line in self.lines.items()}


class Ansible:
    """Runs playbooks with one Python environment against one inventory, which a test may change."""

    def __init__(self, venv, collections, work):
        self.venv = pathlib.Path(venv)
        self.work = work
        self.hosts = {}
        self.environment = {
            "PATH": f"{self.venv}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(work),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_CALLBACKS_ENABLED": "fettle.patching.report",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORKS": "10",
            "PYTHONUNBUFFERED": "1",
            "ANSIBLE_DEPRECATION_WARNINGS": "True",
        }
        self.count = 0

    def add_host(self, name, **variables):
        """A host of its own claims, which runs modules on this machine unless `variables` say otherwise."""
        self.hosts[name] = {
            "ansible_connection": "local",
            "ansible_python_interpreter": "/usr/bin/python3",
            "fettle_runs_directory": str(self.runs(name)),
            **variables,
        }

    def runs(self, host):
        """Where the host keeps its claims."""
        return self.work / "runs" / host

    def start(self, playbook, variables=None, *options, environment=None):
        """Start a run; returns a function that waits for it and gives its Result."""
        self.count += 1
        base = self.work / f"run-{self.count}"
        inventory = base.with_suffix(".inventory.json")
        inventory.write_text(json.dumps({"all": {"hosts": self.hosts}}))
        report = base.with_suffix(".report")
        log = base.with_suffix(".log")
        argv = [self.venv / "bin" / "ansible-playbook", "-i", inventory, playbook, *options]
        if variables is not None:
            argv += ["-e", json.dumps(variables)]
        with log.open("w") as output:
            child = subprocess.Popen(
                argv,
                env={**self.environment, "FETTLE_REPORT_FILE": str(report), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def finish():
            code = child.wait()
            lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
            return Result(code, log.read_text(), {line["host"]: line for line in lines})

        finish.child = child
        finish.log = log
        return finish

    def run(self, playbook, variables=None, *options, environment=None):
        """Run a playbook to its end."""
        return self.start(playbook, variables, *options, environment=environment)()


@pytest.fixture(params=sorted(venvs()))
def ansible(request, collections, tmp_path):
    """Ansible of each environment, without hosts."""
    return Ansible(venvs()[request.param], collections, tmp_path)


def launch(phase, hosts, **changes):
    """The variables of a launch that the guard accepts, with changes; a change to None takes the variable away."""
    variables = {
        "fettle_run_key": f"v1-7p3k0c2m9xq4-{phase}",
        "fettle_phase": phase,
        "fettle_not_after": int(time.time()) + 600,
        "fettle_hosts": hosts,
        "fettle_desired_kernel": KERNEL,
        **changes,
    }
    return {name: value for name, value in variables.items() if value is not None}


class Repository:
    """An HTTP server of a directory; can be taken down and counts what it served."""

    def __init__(self, directory):
        self.directory = directory
        self.served = []
        handler = functools.partial(Handler, directory=str(directory), log=self.served)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        """From now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files and notes their paths."""

    def __init__(self, *args, log, **kwargs):
        self.served = log
        super().__init__(*args, **kwargs)

    def log_message(self, *_args):
        self.served.append(self.path)


class Root:
    """A host that is a root file system of its own."""

    def __init__(self, path, repository):
        self.path = path
        self.repository = repository
        #: Shell commands that are run in the host's mount namespace before each module, for example to mount a full /boot.
        self.mounts = path.with_suffix(".mounts")
        self.mounts.write_text("")
        self.python = path.with_suffix(".python")
        self.python.write_text(
            textwrap.dedent(
                f"""\
                #!/bin/sh
                exec unshare --mount sh -c '
                set -e
                mount -t proc proc {path}/proc
                mount --rbind /dev {path}/dev
                . {self.mounts}
                exec chroot {path} /usr/bin/python3 "$@"' sh "$@"
                """
            )
        )
        self.python.chmod(0o755)
        self.write("boot/vmlinuz-" + KERNEL, "kernel")
        self.write("boot/initrd.img-" + KERNEL, "ramdisk")

    def write(self, name, text):
        """Write a file of the host; a new one, since the old one may be shared with other hosts."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        return file

    def run(self, *argv):
        """Run a command in the host."""
        return subprocess.run(["chroot", self.path, *argv], check=True, capture_output=True, text=True).stdout

    def marks(self):
        """How often the installation script of a kernel ran."""
        file = self.path / "var/lib/marks"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def variables(self):
        """Inventory variables of the host."""
        return {"ansible_python_interpreter": str(self.python), "fettle_runs_directory": "/var/lib/fettle/runs"}


@pytest.fixture(scope="session")
def base_root():
    """The root file system that hosts are copies of."""
    if os.getuid() != 0 or not shutil.which("mmdebstrap"):
        pytest.skip("hosts with a package manager need root and mmdebstrap")
    return subprocess.check_output([HERE / "hostroot.sh"], text=True).strip()


@pytest.fixture
def root(base_root, tmp_path):
    """A fresh host and an empty repository that it can reach."""
    path = tmp_path / "root"
    path.mkdir()
    for entry in os.listdir(base_root):
        # Package managers replace files, they do not write into them: what they manage can be shared by hard links.
        share = "-al" if entry == "usr" and os.stat(base_root).st_dev == path.stat().st_dev else "-a"
        subprocess.run(["cp", share, f"{base_root}/{entry}", path], check=True)
    directory = tmp_path / "repository"
    directory.mkdir()
    repository = Repository(directory)
    yield Root(path, repository)
    repository.stop()
    shutil.rmtree(path)
