"""torch is loaded where it computes and nowhere else, so that `milliner --help` and the operator start at once.

import-linter checks the directions; this checks what importing really loads.
"""

from __future__ import annotations

import json
import subprocess
import sys

TORCH_FREE_LAYERS = ("contract", "core", "telemetry", "strategies", "wire", "api", "cli", "local")
COMPUTES = {f"milliner.wire.{name}" for name in ("tensor_codecs", "quantisation", "rotation")}  # imported when used

_PROBE = """
import importlib, json, pkgutil, sys
import milliner
layers, computes = json.loads(sys.argv[1])
found = {}
for layer in layers:
    package = importlib.import_module(f"milliner.{layer}")
    names = [package.__name__] + [each.name for each in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    for name in names:
        if name in computes or name.endswith("__main__"):
            continue
        importlib.import_module(name)
        if "torch" in sys.modules:
            print(json.dumps(name))
            sys.exit()
print(json.dumps(None))
"""


def test_layers_without_computation_load_no_torch() -> None:
    arguments = json.dumps([TORCH_FREE_LAYERS, sorted(COMPUTES)])
    run = subprocess.run([sys.executable, "-c", _PROBE, arguments], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    first = json.loads(run.stdout.splitlines()[-1])
    assert first is None, f"importing {first} loads torch"
