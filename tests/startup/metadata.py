#!/usr/bin/env python3
"""A metadata server as a Compute Engine machine sees it: metadata.py PORT_FILE LOG REFUSE KEYS

Writes its port to PORT_FILE and every guest attribute set or removed to LOG. While the file REFUSE exists it refuses guest attributes,
as it does when an organisation forbids them. The metadata 'ssh-keys' is what the file KEYS holds.
"""

import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT_FILE, LOG, REFUSE, KEYS = sys.argv[1:]
ROOT = "/computeMetadata/v1/instance/"
GUEST = "guest-attributes/"


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body=""):
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def key(self):
        """The path below the instance, or None when the answer was a refusal."""
        if self.headers.get("Metadata-Flavor") != "Google":
            self.answer(403, "Missing required header: Metadata-Flavor")
        elif not self.path.startswith(ROOT):
            self.answer(404)
        else:
            return self.path[len(ROOT):]
        return None

    def do_GET(self):
        key = self.key()
        if key == "attributes/ssh-keys":
            with open(KEYS, encoding="utf-8") as keys:
                self.answer(200, keys.read())
        elif key is not None:
            self.answer(404)

    def record(self, verb):
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length).decode()
        key = self.key()
        if key is None:
            return
        if not key.startswith(GUEST) or os.path.exists(REFUSE):
            self.answer(403)
            return
        with open(LOG, "a", encoding="utf-8") as log:
            print(verb, key[len(GUEST):], body, file=log)
        self.answer(200)

    def do_PUT(self):
        self.record("PUT")

    def do_DELETE(self):
        self.record("DELETE")

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
with open(PORT_FILE + ".draft", "w", encoding="utf-8") as file:
    print(server.server_port, file=file)
os.rename(PORT_FILE + ".draft", PORT_FILE)
server.serve_forever()
