"""The Debian package: what is in it, and, where it may be installed here, its whole life."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from daemon import BINARY, DEADLINE_SECONDS, ROOT

CONFIGURATION = pathlib.Path("/etc/trunkline/trunkline.toml")


def run(*words, **options):
    return subprocess.run(words, check=True, capture_output=True, text=True, **options).stdout


def build(folder, revision=""):
    environment = dict(os.environ, PACKAGE_REVISION=revision, DEB_COMPRESSION="none")
    return run(ROOT / "packaging" / "build-deb.sh", BINARY, folder, env=environment).strip()


def may_install():
    """Only in a container of root's own, where nothing of ours is: this changes the system."""
    return (os.geteuid() == 0 and not os.path.isdir("/run/systemd/system") and not CONFIGURATION.parent.exists()
            and shutil.which("trunkline") is None)


class Package(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory(prefix="trunkline-test-")
        self.addCleanup(directory.cleanup)
        self.folder = directory.name

    def test_a_package_has_what_a_host_needs(self):
        package = build(self.folder)
        version = run(BINARY, "--version").split()[1]
        self.assertEqual(run("dpkg-deb", "--field", package, "Package", "Version").split()[1::2],
                         ["trunkline", version])
        listed = run("dpkg-deb", "--contents", package).splitlines()
        files = {line.split()[5]: line.split()[:2] for line in listed}
        for name, mode in {
            "./usr/bin/trunkline": "-rwxr-xr-x",
            "./usr/lib/systemd/system/trunkline.service": "-rw-r--r--",
            "./usr/share/bash-completion/completions/trunkline": "-rw-r--r--",
            "./usr/share/zsh/vendor-completions/_trunkline": "-rw-r--r--",
            "./usr/share/fish/vendor_completions.d/trunkline.fish": "-rw-r--r--",
            "./usr/share/man/man1/trunkline.1.gz": "-rw-r--r--",
            "./usr/share/man/man1/trunkline-why.1.gz": "-rw-r--r--",
            "./usr/share/doc/trunkline/copyright": "-rw-r--r--",
        }.items():
            self.assertEqual(files.get(name), [mode, "root/root"], name)
        # Secrets are made on the host, not in the package.
        self.assertFalse(any("/etc/" in name for name in files))
        run("dpkg-deb", "--extract", package, self.folder + "/tree")
        unit = pathlib.Path(self.folder, "tree/usr/lib/systemd/system/trunkline.service").read_text()
        self.assertIn("ExecStart=/usr/bin/trunkline --config /etc/trunkline/trunkline.toml\n", unit)
        completions = pathlib.Path(self.folder, "tree/usr/share/bash-completion/completions/trunkline")
        run("bash", "-n", completions)

    def test_its_whole_life(self):
        if not may_install():
            # Elsewhere the scripts are at least read by their shell.
            for script in ("postinst", "prerm", "postrm"):
                run("sh", "-n", ROOT / "packaging" / "debian" / script)
            return
        first, second = build(self.folder, "1"), build(self.folder, "2")
        try:
            run("dpkg", "--install", first)
            self.assertEqual(oct(CONFIGURATION.stat().st_mode & 0o777), "0o640")
            self.assertEqual(CONFIGURATION.group(), "trunkline")
            secrets = CONFIGURATION.read_text()
            run("trunkline", "check", CONFIGURATION)
            self._starts_and_ends()

            run("dpkg", "--install", second)
            self.assertEqual(CONFIGURATION.read_text(), secrets, "an upgrade keeps the configuration")
            self._starts_and_ends()

            run("dpkg", "--remove", "trunkline")
            self.assertIsNone(shutil.which("trunkline"))
            self.assertEqual(CONFIGURATION.read_text(), secrets, "so does a removal")
        finally:
            run("dpkg", "--purge", "trunkline")
        self.assertFalse(CONFIGURATION.parent.exists())
        self.assertNotIn("\ntrunkline:", "\n" + pathlib.Path("/etc/passwd").read_text())

    def _starts_and_ends(self):
        """As the unit starts it: by its user, who can read the configuration and nobody else can."""
        environment = {"PATH": os.environ["PATH"], "TRUNKLINE_LISTEN": "127.0.0.1:0", "TRUNKLINE_API_LISTEN": "127.0.0.1:0",
                       "TRUNKLINE_SHUTDOWN_DRAIN": "0s"}
        node = subprocess.Popen(
            ["/usr/bin/trunkline", "--config", str(CONFIGURATION)], user="trunkline", group="trunkline", extra_groups=[],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + DEADLINE_SECONDS
        lines = []
        while not any("is ready" in line for line in lines):
            self.assertLess(time.monotonic(), end, lines)
            line = node.stdout.readline()
            self.assertTrue(line, lines)
            lines.append(line)
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=DEADLINE_SECONDS)
        self.assertEqual(node.returncode, 0, lines)


if __name__ == "__main__":
    unittest.main()
