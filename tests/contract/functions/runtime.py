"""AWS Lambda's runtime API on this machine: it hands invocations to a real function binary and takes its answers.

Facts: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, version 2018-06-01.
"""

import base64
import json
import os
import queue
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Function:
    """One execution environment of one function, started when it is invoked first."""

    def __init__(self, binary, environment, log):
        self.binary, self.environment, self.log = binary, environment, log
        self.waiting, self.answers, self.process = queue.Queue(), {}, None
        self.timeout = 60  # seconds that each invocation is told it has
        self.first_poll = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a function that was killed broke its connection off
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _handler(function):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def do_GET(self):
                function.first_poll.set()
                request_id, event = function.waiting.get()
                body = json.dumps(event).encode()
                self.send_response(200)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    "Lambda-Runtime-Aws-Request-Id": request_id,
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + function.timeout) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:123456789012:function:test",
                    "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Transfer-Encoding") == "chunked":
                    body = self._chunks()
                _, _, _, request_id, kind = ([""] * 5 + self.path.split("/"))[-5:]
                if answer := function.answers.get(request_id):
                    answer.put((kind, body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _chunks(self):
                whole = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

        return Handler

    def invoke(self, event, limit=60):
        """Runs one invocation; raises when the function answers an error or none."""
        if self.process is None or self.process.poll() is not None:
            self.start()
        request_id = str(uuid.uuid4())
        self.answers[request_id] = answer = queue.Queue()
        self.waiting.put((request_id, event))
        try:
            kind, body = answer.get(timeout=limit)
        except queue.Empty:
            raise AssertionError(f"{self.binary.name} did not answer; its log: {self.log}") from None
        del self.answers[request_id]
        if kind != "response":
            raise RuntimeError(body.decode())
        return json.loads(body) if body else None

    def start(self):
        port = self.server.server_address[1]
        environment = {
            **{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR")},
            **self.environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "AWS_LAMBDA_FUNCTION_NAME": self.binary.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        }
        log = open(self.log, "ab")
        self.process = subprocess.Popen([self.binary], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self):
        """Ends the execution environment, as Lambda may at any time."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        # Whoever still asks belongs to the life that ended; whoever waits for its answer learns that none will come.
        self.waiting = queue.Queue()
        for answer in list(self.answers.values()):
            answer.put(("error", b"the execution environment was ended"))

    def close(self):
        self.kill()
        self.server.shutdown()
        self.server.server_close()


def url_event(method, path, headers=None, body=b""):
    """An invocation through a function URL, payload format 2.0; the body is base64 as for unknown content types."""
    path, _, query = path.partition("?")
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "abc.lambda-url.us-east-1.on.aws", **{k.lower(): v for k, v in (headers or {}).items()}},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abc",
            "domainName": "abc.lambda-url.us-east-1.on.aws",
            "domainPrefix": "abc",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7", "userAgent": "test"},
            "requestId": str(uuid.uuid4()),
            "routeKey": "$default",
            "stage": "$default",
            "time": "23/Nov/2026:13:45:30 +0000",
            "timeEpoch": int(time.time() * 1000),
        },
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def queue_event(messages):
    """An invocation by the event source mapping of a queue."""
    return {
        "Records": [
            {
                "messageId": one["MessageId"],
                "receiptHandle": one["ReceiptHandle"],
                "body": one["Body"],
                "attributes": {},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:ticks",
                "awsRegion": "us-east-1",
            }
            for one in messages
        ]
    }
