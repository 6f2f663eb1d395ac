"""Starts simcloud's program for a test on a free loopback port and stops it again, by its process id."""

import importlib.metadata
import json
import os
import pathlib
import queue
import signal
import subprocess
import threading
import time
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "tests/contract/requirements-clients.txt"
# 80 s until a rented GPU runs become 1.6 s: fast enough to wait for, slow enough to see the states in between.
TIME_SCALE = "0.02"
# The last line simcloud prints once it serves.
LAST_LINE = "SIM_ROOT"


def pytest_configure():
    """Refuses to prove anything about another version than the pinned one."""
    for line in REQUIREMENTS.read_text().splitlines():
        if "==" not in line:
            continue
        name, wanted = line.split("==")
        name = name.split("[")[0]
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != wanted:
            pytest.exit(f"{name} is {installed}, not {wanted}; run `make contract-clients`", returncode=4)


def until(what, look, seconds=30.0):
    """Polls until `look` answers something true, and answers that."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or "target")
    program = (ROOT / target if not target.is_absolute() else target) / "debug/simcloud"
    if not program.is_file():
        pytest.fail(f"{program} is not built; run `cargo build -p simcloud`, or `make contract-clients`", pytrace=False)
    return program


class Cloud:
    """One simulated Vast.ai and Compute Engine."""

    def __init__(self, said, process):
        self.process = process
        self.url = said["VAST_URL"]
        self.vast_api_key = said["VAST_API_KEY"]
        self.compute_url = said["SIM_COMPUTE_URL"]
        self.key_file = said["GOOGLE_APPLICATION_CREDENTIALS"]
        self.project = said["SIM_PROJECT"]
        self.login_user = said["SIM_LOGIN_USER"]
        self.ssh_port = int(said["SIM_STANDBY_SSH_PORT"])

    def control(self, method, path, body=None):
        """Calls simcloud's own control API, which no real provider has."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/sim/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def machines(self):
        """What exists and costs, as simcloud itself sees it."""
        return {machine["name"]: machine for machine in self.control("GET", "state")["machines"]}

    def requests(self):
        """Every request that the client sent, with the status it got."""
        return self.control("GET", "requests")


def read_announcement(process):
    lines = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = {}
    deadline = time.monotonic() + 30
    while LAST_LINE not in said:
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            pytest.fail(f"simcloud said only {said} within 30 s")
        if line is None:
            pytest.fail(f"simcloud ended with {process.wait()} after saying {said}")
        name, _, value = line.strip().partition("=")
        said[name] = value
    return said


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    """A client that turns to its real provider meets a proxy on which nobody listens."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def cloud(tmp_path):
    """A simulated cloud of the test's own, in a directory of its own."""
    errors = (tmp_path / "simcloud.err").open("w+")
    process = subprocess.Popen(
        [binary(), "--port", "0", "--time-scale", TIME_SCALE, "--dir", tmp_path / "sim"],
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    try:
        yield Cloud(read_announcement(process), process)
        assert process.poll() is None, "simcloud ended during the test"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            errors.seek(0)
            print(errors.read())
            errors.close()
            process.stdout.close()
    assert process.returncode == 0


@pytest.fixture(scope="session")
def key_pair(tmp_path_factory):
    """A key pair; answers the private key's file and the public key's text."""
    private = tmp_path_factory.mktemp("key") / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "contract", "-f", private], check=True)
    return private, private.with_suffix(".pub").read_text().strip()


def ssh(user, host, port, private_key, *command):
    """Logs in to a machine; answers what the command printed, or nothing when there was no login."""
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"]
    arguments = [part for option in options for part in ("-o", option)]
    done = subprocess.run(
        ["ssh", "-F", "none", *arguments, "-i", private_key, "-p", str(port), f"{user}@{host}", *command],
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.stdout.strip() if done.returncode == 0 else ""
