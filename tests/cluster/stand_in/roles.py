"""Stands in for the runtime image in tests of the operator alone: same command line, same ports, no model.

`inspect` writes made-up facts, an error where the source names `missing`; `cloud` and `device` answer health and probe,
and end at once where the served name is `crash`.
"""

import http.server
import json
import os
import pathlib
import signal
import sys

role, config = sys.argv[1], json.loads(pathlib.Path(sys.argv[3]).read_text())
DIGEST = "sha256:" + "d" * 64

if role == "inspect":
    facts = {"schema": 1, "key": config["key"], "layers": 8, "hiddenSize": 64, "dtype": "Float32", "digest": DIGEST}
    facts |= {"fingerprint": "f" * 16, "drafterKind": "adapter", "drafterSplit": 2, "drafterModelDigest": DIGEST}
    if "missing" in config["model"].get("source", ""):
        message = "model.source names nothing that can be read: correct it"
        facts |= {"error": {"reason": "ModelNotFound", "field": "model.source", "message": message}}
    pathlib.Path("/dev/termination-log").write_text(json.dumps(facts))
    sys.exit(0)

if config["model"]["servedName"] == "crash":
    sys.exit(1)


class Handler(http.server.BaseHTTPRequestHandler):
    """Healthy at once; the probe's figures are made up."""

    def do_GET(self) -> None:
        figures = {"roundTripMicroseconds": 21000, "timeToFirstTokenMilliseconds": 40, "tokensPerSecond": 30}
        probe = {"ok": True, "reason": "", "revision": os.environ["MILLINER_REVISION"], "modelDigest": DIGEST}
        body = json.dumps(probe | figures | {"ageSeconds": 1}).encode()
        self.send_response(200 if self.path in ("/healthz", "/readyz", "/probe") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.ThreadingHTTPServer(("", config["healthPort"]), Handler).serve_forever()
