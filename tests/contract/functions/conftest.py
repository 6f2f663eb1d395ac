"""The stage of the functions: moto for AWS, simcloud for Vast, Compute Engine and Cloud Storage, and every function as the binary that is deployed."""

import hashlib
import hmac
import json
import os
import pathlib
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import boto3
import pytest

from runtime import Function, queue_event, url_event

ROOT = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARIES = TARGET / os.environ.get("WARMSPARE_PROFILE", "debug")
PARAMETERS = "/warmspare/stage/"
NAMES = ["on_gpu_created", "on_gpu_destroyed", "mark_gpu_failed", "vast_webhook", "api", "planner", "sync_tick", "sweep"]
AWS = {"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
PATIENCE = 120


def until(what, holds):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE} s in vain for: {what}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    port = free_port()
    log = open(tmp_path_factory.mktemp("moto") / "log", "wb")
    program = pathlib.Path(sys.executable).with_name("moto_server")
    process = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)

    def answers():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until("moto answers", answers)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


class Cloud:
    """simcloud, and a user's hands at Vast."""

    def __init__(self, directory):
        self.log = open(directory / "simcloud.log", "wb")
        program = BINARIES / "simcloud"
        assert program.is_file(), f"{program} is missing: build it with `make contract`"
        self.process = subprocess.Popen(
            [program, "--dir", directory / "clouds", "--time-scale", "0.02"], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.facts = {}
        while "SIM_ROOT" not in self.facts:
            line = self.process.stdout.readline()
            assert line, f"simcloud ended; see {self.log.name}"
            name, _, value = line.strip().partition("=")
            self.facts[name] = value

    def call(self, method, url, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, method=method)
        request.add_header("Authorization", f"Bearer {self.facts['VAST_API_KEY']}")
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def vast(self, method, path, body=None):
        return self.call(method, self.facts["VAST_URL"].rstrip("/") + path, body)

    def sim(self, method, path, body=None):
        return self.call(method, self.facts["SIM_CONTROL"].removesuffix("/state") + path, body)

    def rent(self):
        offers = self.vast("POST", "/api/v0/bundles/", {"type": "bid", "num_gpus": {"eq": 1}, "limit": 1, "allocated_storage": 40})
        offer = offers["offers"][0]
        order = {
            "client_id": "me", "image": "vastai/base-image", "disk": 40, "price": offer["min_bid"] * 1.2,
            "runtype": "ssh_direc ssh_proxy", "label": "my-training",
        }  # fmt: skip
        gpu = self.vast("PUT", f"/api/v0/asks/{offer['id']}/", order)["new_contract"]
        until("the GPU runs", lambda: self.status(gpu) == "running" and self.home(gpu).is_dir())
        return gpu

    def home(self, gpu):
        return pathlib.Path(self.facts["SIM_ROOT"]) / "machines" / f"gpu-{gpu}" / "home"

    def status(self, gpu):
        row = self.vast("GET", f"/api/v0/instances/{gpu}/?owner=me")["instances"]
        return (row or {}).get("actual_status") or "gone"

    def state(self):
        return self.sim("GET", "/state")

    def close(self):
        self.process.terminate()
        self.process.wait()


class Stage:
    """All functions, their queue and their secrets."""

    def __init__(self, directory, moto):
        self.directory, self.cloud = directory, Cloud(directory)
        self.hook_secret, self.webhook_secret, self.token = (secrets.token_hex(16) for _ in range(3))
        client = lambda name: boto3.client(  # noqa: E731
            name, endpoint_url=moto, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        self.sqs, self.ssm, self.scheduler = client("sqs"), client("ssm"), client("scheduler")
        self.name = "stage" + secrets.token_hex(3)
        self.queue = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.scheduler.create_schedule_group(Name=self.name)
        self.parameters = f"/warmspare/{self.name}/"
        facts = self.cloud.facts
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "operator"], check=True)
        for name, value in {
            "vast_api_key": facts["VAST_API_KEY"],
            "hook_secret": self.hook_secret,
            "webhook_secret": self.webhook_secret,
            "api_tokens": "operate:" + hashlib.sha256(self.token.encode()).hexdigest(),
            "operator_key": (directory / "operator").read_text(),
            "gcp_key": pathlib.Path(facts["GOOGLE_APPLICATION_CREDENTIALS"]).read_text(),
        }.items():
            self.ssm.put_parameter(Name=self.parameters + name, Value=value, Type="SecureString", Overwrite=True)
        environment = {
            **AWS,
            "AWS_ENDPOINT_URL": moto,
            "NO_COLOR": "1",
            "WARMSPARE_PARAMETERS": self.parameters,
            "WARMSPARE_BUCKET": facts["SIM_BUCKET"],
            "WARMSPARE_STORAGE_URL": facts["SIM_STORAGE_URL"],
            "WARMSPARE_TICK_QUEUE_URL": self.queue,
            "WARMSPARE_BEAT_SCHEDULE_GROUP": self.name,
            "WARMSPARE_BEAT_SCHEDULE_ROLE_ARN": "arn:aws:iam::123456789012:role/beat",
            "WARMSPARE_PLANNER_ARN": "arn:aws:lambda:us-east-1:123456789012:function:planner",
            "WARMSPARE_DEPLOYMENT": "stage",
            "WARMSPARE_VAST_URL": facts["VAST_URL"],
            "WARMSPARE_VAST_PACE_PERCENT": "0",
            "WARMSPARE_GCP_URL": facts["SIM_COMPUTE_URL"],
            "WARMSPARE_GCP_BILLING_URL": facts["SIM_BILLING_URL"],
            "WARMSPARE_GCP_PROJECT": facts["SIM_PROJECT"],
            "WARMSPARE_SOURCE_PATH": "workspace",
            "WARMSPARE_GPU_USER": facts["SIM_LOGIN_USER"],
            "WARMSPARE_STANDBY_USER": facts["SIM_LOGIN_USER"],
            "WARMSPARE_STANDBY_SSH_PORT": facts["SIM_STANDBY_SSH_PORT"],
            "WARMSPARE_STANDBY_DATA_DIR": "data",
            "WARMSPARE_STANDBY_SUDO": "false",
            "WARMSPARE_AGENT_BINARY": str(BINARIES / "warmspare-agent"),
        }
        self.functions = {}
        for name in NAMES:
            own = {**environment, "WARMSPARE_STATE_DIR": str(directory / f"scratch-{name}")}
            self.functions[name] = Function(BINARIES / name, own, directory / f"{name}.log")
        self.ticking, self.failures = threading.Event(), []
        self.mapping = threading.Thread(target=self._event_source_mapping, daemon=True)
        self.mapping.start()

    def _event_source_mapping(self):
        """What Lambda's event source mapping does: receive, invoke, delete what did not fail."""
        while not self.ticking.is_set():
            got = self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=0, VisibilityTimeout=5)
            messages = got.get("Messages", [])
            if not messages:
                time.sleep(0.1)
                continue
            try:
                answer = self.functions["sync_tick"].invoke(queue_event(messages))
            except Exception as error:  # the whole batch comes again
                if "the execution environment was ended" not in str(error):
                    self.failures.append(error)
                continue
            failed = {one["itemIdentifier"] for one in answer["batchItemFailures"]}
            for one in messages:
                if one["MessageId"] not in failed:
                    self.sqs.delete_message(QueueUrl=self.queue, ReceiptHandle=one["ReceiptHandle"])

    def url(self, name, method, path, headers=None, body=b""):
        answer = self.functions[name].invoke(url_event(method, path, headers, body))
        text = answer.get("body") or ""
        return answer["statusCode"], json.loads(text) if text.startswith(("{", "[")) else text

    def hook(self, name, path, body, secret=None):
        body = json.dumps({"schema": 1, "event_id": secrets.token_hex(8), **body}).encode()
        return self.url(name, "POST", path, self.signed("x-warmspare", secret or self.hook_secret, body), body)

    def signed(self, prefix, secret, body):
        now = str(int(time.time()))
        mac = hmac.new(secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        return {f"{prefix}-timestamp": now, f"{prefix}-signature-256": f"sha256={mac}", "content-type": "application/json"}

    def api(self, method, path, body=None):
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        return self.url("api", method, path, headers, b"" if body is None else json.dumps(body).encode())

    def view(self, gpu):
        status, view = self.api("GET", f"/v1/associations/{gpu}")
        return view if status == 200 else {}

    def beat(self, gpu):
        """A slot for this GPU's association, now, as the planner would have queued it a minute ago."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        tick = {"slot": {"shard": 0, "slot": now, "associations": {f"vast-{gpu}": "0"}}}
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=json.dumps({"schema": 1, "tick": tick}))

    def await_phase(self, gpu, phase):
        last = [0.0]

        def holds():
            if time.monotonic() - last[0] > 1:
                self.beat(gpu)
                last[0] = time.monotonic()
            view = self.view(gpu)
            return view if view.get("phase") == phase else None

        return until(f"{gpu} is {phase}; logs in {self.directory}", holds)

    def workspace(self, gpu):
        workspace = self.cloud.home(gpu) / "workspace"
        workspace.mkdir(exist_ok=True)
        return workspace

    def close(self):
        self.ticking.set()
        self.mapping.join(timeout=30)
        for function in self.functions.values():
            function.close()
        self.cloud.close()


@pytest.fixture
def stage(tmp_path, moto):
    # The path of a machine's directory is part of the path of a socket, which may have some 100 bytes only.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        stage = Stage(pathlib.Path(directory), moto)
        yield stage
        stage.close()
