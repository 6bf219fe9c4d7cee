"""Kernels for the tests: packages with the file names of real ones, and repositories that offer them."""

import hashlib
import subprocess
import textwrap

#: What every installation of a test kernel does: leave a mark, then wait for as long as the test holds it.
SCRIPT = """\
echo {kernel} >> /var/lib/marks
while [ -e /etc/hold ]; do sleep 0.2; done
[ -e /etc/no-ramdisk ] || echo ramdisk > /boot/initrd.img-{kernel}
"""


def deb(root, kernel, version="9.9.9-1", depends=""):
    """Build `linux-image-<kernel>` into the host's repository and index it."""
    name = f"linux-image-{kernel}"
    tree = root.path / "tmp" / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "boot").mkdir()
    (tree / "boot" / f"vmlinuz-{kernel}").write_text("kernel")
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: tests <tests@example.com>\nDescription: kernel\n"
    if depends:
        control += f"Depends: {depends}\n"
    (tree / "DEBIAN" / "control").write_text(control)
    script = tree / "DEBIAN" / "postinst"
    script.write_text("#!/bin/sh\nset -e\n" + SCRIPT.format(kernel=kernel))
    script.chmod(0o755)
    file = root.repository.directory / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, file], check=True, capture_output=True)
    with (root.repository.directory / "Packages").open("a") as index:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        index.write(f"{control}Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n\n")


def apt_host(root):
    """Make the host one of the Debian family whose only repository is the test's."""
    (root.repository.directory / "Packages").touch()
    for file in (root.path / "etc/apt").glob("sources.list*/*"):
        file.unlink()
    root.write("etc/apt/sources.list", f"deb [trusted=yes] {root.repository.url} ./\n")


def rpm(root, kernel):
    """Build `kernel-core-<kernel>` into the host's repository and index it."""
    version, _dash, rest = kernel.partition("-")
    release = rest[: -len(".x86_64")]
    spec = textwrap.dedent(
        f"""\
        Name: kernel-core
        Version: {version}
        Release: {release}
        Summary: kernel
        License: none
        Provides: kernel-uname-r = {kernel}
        Provides: installonlypkg(kernel)
        %description
        kernel
        %install
        mkdir -p %{{buildroot}}/boot
        echo kernel > %{{buildroot}}/boot/vmlinuz-{kernel}
        %post
        """
    )
    spec += SCRIPT.format(kernel=kernel).replace("initrd.img-" + kernel, f"initramfs-{kernel}.img") + f"%files\n/boot/vmlinuz-{kernel}\n"
    root.write("tmp/kernel.spec", spec)
    root.run("rpmbuild", "-bb", "--quiet", "--target", "x86_64", "--define", "_rpmdir /tmp/rpms", "/tmp/kernel.spec")
    (built,) = (root.path / "tmp/rpms").glob("*/*.rpm")
    built.rename(root.repository.directory / built.name)
    repository = root.path / "tmp/index"
    subprocess.run(["rm", "-rf", repository], check=True)
    subprocess.run(["cp", "-a", root.repository.directory, repository], check=True)
    root.run("createrepo_c", "--quiet", "/tmp/index")
    subprocess.run(["rm", "-rf", root.repository.directory / "repodata"], check=True)
    subprocess.run(["cp", "-a", repository / "repodata", root.repository.directory], check=True)


def dnf_host(root):
    """Make the host one of the RHEL family whose only repository is the test's."""
    root.write("etc/os-release", 'ID="rhel"\nID_LIKE="fedora"\n')
    root.write("etc/dnf/dnf.conf", "[main]\ngpgcheck=0\n")
    root.write("etc/yum.repos.d/test.repo", f"[test]\nname=test\nbaseurl={root.repository.url}\nenabled=1\nmetadata_expire=1h\n")


__all__ = ["apt_host", "deb", "dnf_host", "rpm"]
