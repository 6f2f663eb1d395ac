"""Cold start and warm latency of the webhook function against a function that does nothing, in one run.

Every binary is the one that is deployed. Cold: from spawn to the first poll of the runtime API, many times, the two in turn. Warm: signed outbid
notices, each for another protected GPU, so that each reads its association, decides, writes it and asks for a beat. The bucket is simcloud's; the
queue answers at once; both and this program run on the same cores as the function.
"""

import argparse
import base64
import hashlib
import hmac
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/contract/functions"))

from conftest import BINARIES, PARAMETERS, Cloud, free_port  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import padding  # noqa: E402
from runtime import Function, url_event  # noqa: E402

FIRST_GPU = 70_000_000


class Fast(BaseHTTPRequestHandler):
    """Parameter Store and the queue, without a store behind them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    parameters = {}

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operation = self.headers["X-Amz-Target"].rpartition(".")[2]
        if operation == "GetParametersByPath":
            answer = {"Parameters": [{"Name": PARAMETERS + name, "Value": value, "Type": "SecureString"} for name, value in self.parameters.items()]}
        elif operation == "SendMessageBatch":
            sent = [
                {"Id": one["Id"], "MessageId": one["Id"], "MD5OfMessageBody": hashlib.md5(one["MessageBody"].encode()).hexdigest()}
                for one in body["Entries"]
            ]
            answer = {"Successful": sent, "Failed": []}
        else:
            raise SystemExit(f"the webhook function called {operation}, which this bench does not know")
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def serve_fast(port, parameters):
    Fast.parameters = parameters
    ThreadingHTTPServer(("127.0.0.1", port), Fast).serve_forever()


def cold(binary, environment, log):
    """Seconds from spawn to the first poll, seconds of CPU until then, and the largest memory in MiB."""
    function = Function(binary, environment, log)
    polled = function.first_poll
    start = time.perf_counter()
    function.start()
    assert polled.wait(30), f"{binary.name} never polled; its log: {log}"
    wall = time.perf_counter() - start
    status = pathlib.Path(f"/proc/{function.process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    function.process.kill()
    _, _, used = os.wait4(function.process.pid, 0)
    function.process = None
    function.server.shutdown()
    function.server.server_close()
    return wall, used.ru_utime + used.ru_stime, peak / 1024


def warm(function, events):
    """Seconds of each invocation, from handing it out to its answer; the first ones warm up and do not count."""
    took = []
    for event in events:
        start = time.perf_counter()
        answer = function.invoke(event)
        took.append(time.perf_counter() - start)
        assert answer["statusCode"] == 204, answer
    status = pathlib.Path(f"/proc/{function.process.pid}/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return took[20:], memory / 1024


def access_token(key_file):
    """What every client of Google does with a service account key: RFC 7523."""
    key = json.loads(pathlib.Path(key_file).read_text())
    plain = lambda part: base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")  # noqa: E731
    now = int(time.time())
    claims = {"iss": key["client_email"], "aud": key["token_uri"], "iat": now, "exp": now + 3000, "scope": "https://www.googleapis.com/auth/cloud-platform"}
    signed = plain({"alg": "RS256", "typ": "JWT", "kid": key["private_key_id"]}) + b"." + plain(claims)
    private = serialization.load_pem_private_key(key["private_key"].encode(), None)
    seal = base64.urlsafe_b64encode(private.sign(signed, padding.PKCS1v15(), hashes.SHA256())).rstrip(b"=")
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": (signed + b"." + seal).decode()}
    with urllib.request.urlopen(key["token_uri"], urllib.parse.urlencode(form).encode()) as answer:
        return json.load(answer)["access_token"]


def object_name(gpu):
    name = f"vast-{gpu}"
    return f"associations/{hashlib.sha256(name.encode()).hexdigest()[:2]}/{name}.json"


def store_associations(cloud, count):
    """Protected associations, one for each notice."""
    golden = (ROOT / "shared/platform/src/wire/stored-schema-1.json").read_text()
    token = access_token(cloud.facts["GOOGLE_APPLICATION_CREDENTIALS"])
    address = f"{cloud.facts['SIM_STORAGE_URL']}/upload/storage/v1/b/{cloud.facts['SIM_BUCKET']}/o?uploadType=multipart"
    for gpu in range(FIRST_GPU, FIRST_GPU + count):
        stored = json.loads(golden.replace("48927380", str(gpu)))
        stored["association"].update(phase="protected", saved="points")
        parts = [json.dumps({"name": object_name(gpu)}), json.dumps(stored)]
        body = "".join(f"--cut\r\ncontent-type: application/json\r\n\r\n{part}\r\n" for part in parts) + "--cut--\r\n"
        request = urllib.request.Request(address, body.encode(), method="POST")
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", "multipart/related; boundary=cut")
        urllib.request.urlopen(request).close()


def check_taken_in(cloud, count):
    """Every notice was written into its association: nothing here was fast because it did nothing."""
    token = access_token(cloud.facts["GOOGLE_APPLICATION_CREDENTIALS"])
    for gpu in range(FIRST_GPU, FIRST_GPU + count):
        name = urllib.parse.quote(object_name(gpu), safe="")
        request = urllib.request.Request(f"{cloud.facts['SIM_STORAGE_URL']}/storage/v1/b/{cloud.facts['SIM_BUCKET']}/o/{name}?alt=media")
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request) as answer:
            outbid = json.load(answer)["association"]["watch"]["outbid"]
        assert outbid == "announced", f"{gpu}: {outbid}"


def notices(secret, count):
    for gpu in range(FIRST_GPU, FIRST_GPU + count):
        notice = {
            "event_id": f"bench-{gpu}",
            "notif_type": "outbid",
            "subject": f"Your Interruptible Instance #{gpu} Has Been Outbid",
            "message": f"Your interruptible instance {gpu} on machine 1 has been outbid and will be stopped.",
        }
        body, now = json.dumps(notice).encode(), str(int(time.time()))
        mac = hmac.new(secret.encode(), now.encode() + b"." + body, hashlib.sha256).hexdigest()
        headers = {"x-vast-timestamp": now, "x-vast-signature-256": f"sha256={mac}", "content-type": "application/json"}
        yield url_event("POST", "/webhooks/vast", headers, body)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--functions", type=pathlib.Path, default=ROOT / "target/functions", help="where the deployed binaries are")
    arguments.add_argument("--cold-starts", type=int, default=40)
    arguments.add_argument("--notices", type=int, default=520)
    arguments.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench/functions.json")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="ws-") as scratch:
        scratch = pathlib.Path(scratch)
        cloud = Cloud(scratch)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scratch / "operator"], check=True)
        facts, port = cloud.facts, free_port()
        parameters = {
            "vast_api_key": facts["VAST_API_KEY"],
            "webhook_secret": "bench",
            "operator_key": (scratch / "operator").read_text(),
            "gcp_key": pathlib.Path(facts["GOOGLE_APPLICATION_CREDENTIALS"]).read_text(),
        }
        fast = multiprocessing.Process(target=serve_fast, args=(port, parameters), daemon=True)
        fast.start()
        environment = {
            "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "WARMSPARE_PARAMETERS": PARAMETERS, "WARMSPARE_BUCKET": facts["SIM_BUCKET"], "WARMSPARE_STORAGE_URL": facts["SIM_STORAGE_URL"],
            "WARMSPARE_TICK_QUEUE_URL": f"http://127.0.0.1:{port}/queue", "WARMSPARE_DEPLOYMENT": "test", "WARMSPARE_VAST_URL": facts["VAST_URL"],
            "WARMSPARE_GCP_URL": facts["SIM_COMPUTE_URL"], "WARMSPARE_GCP_PROJECT": facts["SIM_PROJECT"], "WARMSPARE_SOURCE_PATH": "workspace",
            "WARMSPARE_AGENT_BINARY": str(BINARIES / "warmspare-agent"), "WARMSPARE_STATE_DIR": str(scratch / "function"), "RUST_LOG": "warn",
        }  # fmt: skip
        binaries = {"empty": given.functions / "examples/empty", "vast_webhook": given.functions / "vast_webhook"}
        colds = {name: [] for name in binaries}
        for _ in range(given.cold_starts):
            for name, binary in binaries.items():
                colds[name].append(cold(binary, environment, scratch / f"{name}.log"))
        store_associations(cloud, given.notices)
        warms = {}
        for name, binary in binaries.items():
            function = Function(binary, environment, scratch / f"{name}.log")
            warms[name] = warm(function, notices("bench", given.notices))
            function.close()
        check_taken_in(cloud, given.notices)
        cloud.close()
        fast.kill()
    report(given.out, binaries, colds, warms)


def report(out, binaries, colds, warms):
    rows = []
    for name, binary in binaries.items():
        walls, cpus, peaks = zip(*colds[name])
        took, memory = warms[name]
        rows.append(
            {
                "function": name,
                "binary_mb": round(binary.stat().st_size / 1e6, 2),
                "cold_ms": round(statistics.median(walls) * 1e3, 2),
                "cold_cpu_ms": round(statistics.median(cpus) * 1e3, 2),
                "cold_memory_mib": round(statistics.median(peaks), 1),
                "warm_p50_ms": round(percentile(took, 0.50) * 1e3, 2),
                "warm_p99_ms": round(percentile(took, 0.99) * 1e3, 2),
                "warm_memory_mib": round(memory, 1),
            }
        )
    for column in rows[0]:
        print(f"{column:<16}" + "".join(f"{row[column]:>16}" for row in rows))
    empty, ours = rows
    more_cpu = round(ours["cold_cpu_ms"] - empty["cold_cpu_ms"], 2)
    print(f"\nCPU at init beyond the empty function: {more_cpu} ms (goal: at most 10)")
    print(f"warm webhook, 99th percentile: {ours['warm_p99_ms']} ms (goal: at most 5)")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"schema": 1, "rows": rows, "init_cpu_beyond_empty_ms": more_cpu}, indent=2) + "\n")


if __name__ == "__main__":
    main()
