"""What the modules of this collection know about a host: its kernel, its package manager and its claim directory.

Everything here runs on the managed host, with the Python found there (3.6 and later), and only reads, except
where the name says otherwise. Commands are argument lists; no value from outside reaches a shell.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import errno
import fcntl
import glob
import io
import os
import re
import struct
import time

#: What `uname -r` may say. Keeps glob characters and options away from package managers, which accept patterns.
KERNEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}\Z")

#: Environment of every package manager call: messages in English (they are parsed and classified), no questions,
#: and no restart of services behind the back of the hooks.
ENVIRONMENT = {
    "LC_ALL": "C",
    "LANGUAGE": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


class HostError(Exception):
    """A host cannot be judged or changed; the text is one sentence for a person."""


def check(name, ok, message):
    """One entry of a report's `checks`."""
    return {"name": name, "ok": bool(ok), "message": message}


def verdict(checks):
    """Whether all of `checks` hold, and the sentence that says which do not."""
    bad = [entry for entry in checks if not entry["ok"]]
    if not bad:
        return True, "%d of %d checks passed" % (len(checks), len(checks))
    causes = "; ".join("%s: %s" % (entry["name"], entry["message"]) for entry in bad)
    return False, "%d of %d checks failed: %s" % (len(bad), len(checks), causes)


def read(path):
    """The stripped text of a small file, None when it is not there."""
    try:
        with io.open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except IOError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise


def write_durable(path, text):
    """Write a file so that it is either absent or complete, also after a power failure."""
    temporary = path + ".new"
    with open(temporary, "w") as handle:
        handle.write(text + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    os.rename(temporary, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path):
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def boot_id():
    """The identity of this boot: changes with every boot, and only then."""
    return read("/proc/sys/kernel/random/boot_id")


def running_kernel():
    """What `uname -r` says."""
    return os.uname()[2]


def bootable_kernels():
    """Releases with an image in /boot; rescue images are no kernels of their own."""
    names = [os.path.basename(path)[len("vmlinuz-"):] for path in glob.glob("/boot/vmlinuz-*")]
    return sorted(name for name in names if name[:1].isdigit() and not name.startswith("0-rescue"))


def initial_ramdisk(kernel):
    """The path of the kernel's non-empty initial RAM disk, None when there is none."""
    for name in ("initrd.img-%s", "initramfs-%s.img", "initrd-%s"):
        path = "/boot/" + name % kernel
        if os.path.isfile(path) and os.path.getsize(path) > 0:
            return path
    return None


def boot_files(kernel):
    """Why the kernel cannot boot from what lies in /boot, None when it can.

    A package manager says "Complete!" also when the initial RAM disk could not be made for lack of space, so the
    files are looked at. A host whose running kernel needs no initial RAM disk is not asked for one.
    """
    image = "/boot/vmlinuz-" + kernel
    if not os.path.exists(image):
        return "%s is missing" % image
    needed = any(initial_ramdisk(other) for other in bootable_kernels() if other != kernel)
    if needed and initial_ramdisk(kernel) is None:
        return "the initial RAM disk of %s is missing or empty in /boot" % kernel
    return None


def lock_holder(paths):
    """The process that holds an fcntl lock on one of the files, as "path by name (pid n)", None when none does."""
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            query = struct.pack("hhlli", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = struct.unpack("hhlli", fcntl.fcntl(descriptor, fcntl.F_GETLK, query))
        finally:
            os.close(descriptor)
        if answer[0] != fcntl.F_UNLCK:
            return "%s by %s" % (path, process(answer[4]))
    return None


def process(pid):
    """A process for people: "apt-get (pid 123)"."""
    name = None
    try:
        name = read("/proc/%d/comm" % pid)
    except IOError:
        pass  # it ended while it was looked at
    return "%s (pid %d)" % (name or "a process", pid)


class PackageManager(object):
    """What both families of package managers are asked for.

    `module` is the AnsibleModule, used to run commands. Packages are named as the family names the kernel whose
    `uname -r` is known.
    """

    def __init__(self, module):
        self.module = module

    def run(self, *argv):
        """Run a command; returns exit code and the whole output, messages last."""
        code, out, err = self.module.run_command(list(argv), environ_update=ENVIRONMENT)
        return code, out, err

    def repositories(self):
        """Names of the enabled repositories, as far as they are configured; at most 32."""
        names = []
        for name in self.enabled():
            if name and name not in names:
                names.append(name[:96])
        return names[:32]

    def wait_for_lock(self, seconds):
        """Wait until no other process holds the package manager's lock; returns the holder when one stays."""
        deadline = time.time() + seconds
        holder = self.locked_by()
        while holder and time.time() < deadline:
            time.sleep(min(2, max(0.1, deadline - time.time())))
            holder = self.locked_by()
        return holder


class Apt(PackageManager):
    """Debian family. The kernel `6.1.0-53-cloud-amd64` is the package `linux-image-6.1.0-53-cloud-amd64`."""

    OPTIONS = [
        "-y",
        "--no-remove",
        "--no-install-recommends",
        "-o", "DPkg::Lock::Timeout=900",
        "-o", "Dpkg::Options::=--force-confdef",
        "-o", "Dpkg::Options::=--force-confold",
        "-o", "Dpkg::Use-Pty=0",
    ]
    #: Packages that come with an image on some hosts; they follow to the new kernel when the running one has them.
    COMPANIONS = ("linux-modules-extra-", "linux-headers-")

    def locked_by(self):
        return lock_holder(
            [
                "/var/lib/dpkg/lock-frontend",
                "/var/lib/dpkg/lock",
                "/var/lib/apt/lists/lock",
                "/var/cache/apt/archives/lock",
            ]
        )

    def refresh(self):
        """Read the repositories anew (writes the package lists); returns what is wrong with them, None when healthy."""
        code, out, err = self.run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
        problems = [line for line in (out + err).splitlines() if line[:2] in ("E:", "W:") or line.startswith("Err:")]
        if code != 0 or any(line.startswith("Err:") for line in problems):
            return "; ".join(problems[-4:]) or "apt-get update ended with %d" % code
        if not any(line.split(":")[0] in ("Hit", "Get", "Ign") for line in out.splitlines()):
            return "no repository is configured"
        return None

    def enabled(self):
        """Enabled repositories, as address, suite and component; without scheme and without a user's name and password."""
        _code, out, _err = self.run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)/$(COMPONENT)", "Created-By: Packages")
        return [re.sub(r"^[a-z0-9+.-]+:(//)?([^/@ ]*@)?", "", line.strip()).rstrip("/") for line in out.splitlines()]

    def database_problem(self):
        """What `dpkg --audit` finds: packages left half installed."""
        code, out, err = self.run("dpkg", "--audit")
        text = (out + err).strip()
        return None if code == 0 and not text else (text or "dpkg --audit ended with %d" % code)[:600]

    def installed(self, kernel):
        """Name and version of the installed package of the kernel, None when it is not fully installed."""
        for name in ("linux-image-" + kernel, "linux-image-unsigned-" + kernel):
            version = self._installed_version(name)
            if version:
                return "%s=%s" % (name, version)
        return None

    def _installed_version(self, name):
        code, out, _err = self.run("dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Version}", name)
        fields = out.split()
        return fields[1] if code == 0 and len(fields) == 2 and fields[0] in ("ii", "hi") else None

    def candidates(self, kernel):
        """The exact packages, as `name=version`, that bring the kernel; empty when no repository has it."""
        names = ["linux-image-" + kernel, "linux-image-unsigned-" + kernel]
        running = running_kernel()
        companions = [
            prefix + kernel for prefix in self.COMPANIONS if running != kernel and self._installed_version(prefix + running)
        ]
        versions = {}
        _code, out, _err = self.run("apt-cache", "policy", *(names + companions))
        for line in out.splitlines():
            if line and not line[0].isspace():
                name = line.rstrip(":")
            elif line.strip().startswith("Candidate:"):
                version = line.split(":", 1)[1].strip()
                if version != "(none)":
                    versions[name] = version
        image = [name for name in names if name in versions][:1]
        if not image:
            return []
        return ["%s=%s" % (name, versions[name]) for name in image + companions if name in versions]

    def conflict(self, packages):
        """Why the packages cannot be installed, from a simulation; None when they can."""
        code, out, err = self.run("apt-get", "-s", "-q", "install", *(self.OPTIONS + packages))
        if code == 0:
            return None
        lines = [line.strip() for line in (out + err).splitlines() if line.strip()]
        return " ".join(lines[-6:])[:600]

    def downloaded(self, packages):
        """Whether everything that installing the packages needs lies in the package cache."""
        code, out, _err = self.run("apt-get", "-qq", "--print-uris", "install", *(self.OPTIONS + packages))
        return code == 0 and not out.strip()

    def download(self, packages):
        """Command that only downloads."""
        return ["apt-get", "-q", "--download-only", "install"] + self.OPTIONS + packages

    def install(self, packages):
        """Command that installs, never removes a package (so older kernels stay)."""
        return ["apt-get", "-q", "install"] + self.OPTIONS + packages

    def after_install(self, kernel):
        """Commands that make the installed kernel the one that boots: the package's own scripts do that here."""
        return []

    def reboot_required(self):
        """Why a reboot is pending, None when it is not."""
        packages = read("/run/reboot-required.pkgs")
        if os.path.exists("/run/reboot-required"):
            return "/run/reboot-required" + (" (%s)" % ", ".join(sorted(set(packages.split()))) if packages else "")
        return None


class Dnf(PackageManager):
    """RHEL family. The kernel `5.14.0-503.el9.x86_64` is the package `kernel-core-5.14.0-503.el9.x86_64`."""

    #: Packages beside -core that follow to the new kernel when the running one has them ("" is the meta package).
    COMPANIONS = ("", "modules-", "modules-core-", "modules-extra-", "devel-")
    #: Package caches of dnf 4 and dnf 5.
    CACHES = ("/var/cache/dnf/*/packages/%s.rpm", "/var/cache/libdnf5/*/packages/%s.rpm")

    def locked_by(self):
        for path in (
            "/var/cache/dnf/metadata_lock.pid",
            "/var/cache/dnf/download_lock.pid",
            "/var/lib/dnf/rpmdb_lock.pid",
        ):
            text = read(path)
            if text and text.isdigit() and os.path.exists("/proc/" + text):
                return "%s by %s" % (path, process(int(text)))
        return lock_holder(["/var/lib/rpm/.rpm.lock", "/usr/lib/sysimage/rpm/.rpm.lock"])

    def refresh(self):
        """Read the repositories anew (writes the metadata cache); returns what is wrong, None when healthy."""
        code, out, err = self.run("dnf", "--refresh", "makecache")
        text = out + err
        wrong = re.compile(r"error|failed|cannot|ignoring repositories|no enabled repo|no repositories available|not registered", re.I)
        problems = [line.strip() for line in text.splitlines() if wrong.search(line)]
        if code != 0 or any("gnoring repositor" in line for line in problems):
            return "; ".join(problems[-4:]) or "dnf makecache ended with %d" % code
        code, out, err = self.run("dnf", "-q", "-C", "repolist", "--enabled")
        if code != 0 or not out.strip():
            return "; ".join(problems) or "there are no enabled repositories"
        return None

    def enabled(self):
        """Ids of the enabled repositories."""
        code, out, _err = self.run("dnf", "-q", "-C", "repolist", "--enabled")
        rows = [line.split() for line in out.splitlines() if line.strip()] if code == 0 else []
        return [row[0] for row in rows if row[:2] != ["repo", "id"]]

    def database_problem(self):
        """Whether the rpm database answers."""
        code, out, err = self.run("rpm", "-q", "--qf", "%{NAME}\n", "rpm")
        text = (out + err).strip()
        broken = "rpmdb" in text or "error:" in text
        return text[:600] if broken else None

    @staticmethod
    def flavour(kernel):
        """Prefix of the package names and the evr.arch: `5.14.0-503.el9.x86_64+rt` is of the flavour `kernel-rt-`."""
        release, _plus, variant = kernel.partition("+")
        return ("kernel-%s-" % variant if variant else "kernel-"), release

    def _names(self, kernel):
        """Packages that can hold the image of the kernel; the second form is that of releases without -core."""
        prefix, release = self.flavour(kernel)
        return [prefix + "core-" + release, prefix + release]

    def _installed(self, name):
        code, _out, _err = self.run("rpm", "-q", name)
        return code == 0

    def installed(self, kernel):
        """Name of the installed package of the kernel, None when it is not installed."""
        core, plain = self._names(kernel)
        if self._installed(core):
            return core
        # The plain name is a package without content where -core exists.
        if self._installed(plain) and os.path.exists("/boot/vmlinuz-" + kernel):
            return plain
        return None

    def _available(self, names):
        code, out, _err = self.run(
            "dnf", "-q", "-C", "repoquery", "--available", "--qf", "%{name}-%{version}-%{release}.%{arch}\n", *names
        )
        return set(out.split()) if code == 0 else set()

    def candidates(self, kernel):
        """The exact packages, as name-version-release.arch, that bring the kernel; empty when no repository has it."""
        prefix, release = self.flavour(kernel)
        running_prefix, running_release = self.flavour(running_kernel())
        companions = [
            prefix + part + release
            for part in self.COMPANIONS
            if running_kernel() != kernel and self._installed(running_prefix + part + running_release)
        ]
        available = self._available(self._names(kernel) + companions)
        image = [name for name in self._names(kernel) if name in available][:1]
        if not image:
            return []
        return image + [name for name in companions if name in available and name not in image]

    def conflict(self, packages):
        """Why the packages cannot be installed, from a transaction that is not carried out; None when they can."""
        code, out, err = self.run("dnf", "-C", "--assumeno", "install", *packages)
        text = out + err
        if code == 0 or "Operation aborted" in text:
            return None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " ".join(lines[-6:])[:600]

    def downloaded(self, packages):
        """Whether the packages lie in the package cache."""
        return all(any(glob.glob(cache % name) for cache in self.CACHES) for name in packages)

    def download(self, packages):
        """Command that only downloads, and lets the packages survive an unrelated transaction."""
        return ["dnf", "-y", "--setopt=keepcache=1", "--downloadonly", "install"] + packages

    def install(self, packages):
        """Command that installs; the limit of parallel kernels is never below two."""
        options = ["-y"]
        configured = re.findall(r"(?m)^\s*installonly_limit\s*=\s*(\d+)\s*$", read("/etc/dnf/dnf.conf") or "")
        if configured and configured[-1] == "1":
            options.append("--setopt=installonly_limit=2")
        return ["dnf"] + options + ["install"] + packages

    def after_install(self, kernel):
        """Commands that make the installed kernel the one that boots: an older one is not chosen by itself."""
        if any(os.path.exists(path) for path in ("/usr/sbin/grubby", "/sbin/grubby")):
            return [["grubby", "--set-default", "/boot/vmlinuz-" + kernel]]
        return []

    def reboot_required(self):
        """Why a reboot is pending, None when it is not."""
        marker = "/run/reboot-required"
        return marker if os.path.exists(marker) else None


def package_manager(module):
    """The host's package manager, by /etc/os-release; raises HostError for a host of another family."""
    if os.path.exists("/run/ostree-booted"):
        raise HostError("this host boots an image (ostree): its kernel is not a package that can be installed beside others")
    release = read("/etc/os-release") or read("/usr/lib/os-release") or ""
    ids = []
    for line in release.splitlines():
        name, _equals, value = line.partition("=")
        if name in ("ID", "ID_LIKE"):
            ids += value.strip().strip("\"'").split()
    if set(ids) & {"debian", "ubuntu"}:
        return Apt(module)
    if set(ids) & {"rhel", "fedora", "centos"}:
        return Dnf(module)
    raise HostError("this host is neither of the RHEL nor of the Debian family (os-release: %s)" % (" ".join(ids) or "absent"))


def valid_kernel(kernel):
    """The kernel when it can be a kernel release; raises HostError otherwise."""
    if not KERNEL.match(kernel or ""):
        raise HostError("fettle_desired_kernel must be what uname -r will say, got %r" % (kernel,))
    return kernel
