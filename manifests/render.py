"""Writes what is rendered from the charts: `install.yaml`, `alerts/` and `dashboards/`. Needs `helm` (3 or 4).

python manifests/render.py            writes
python manifests/render.py --check    writes nothing; exit status 1 and the names of files that differ
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHARTS = ROOT / "charts"
NAMESPACE = "milliner-system"
HELM_DEADLINE_S = 60  # arbitrary; rendering takes a fraction of a second

_HEAD = f"""\
# Milliner without Helm: the resource definition and the operator, as charts/milliner-crds and charts/milliner have them
# with their default values. Made by manifests/render.py.
#   kubectl apply --server-side -f install.yaml
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def rendered() -> dict[pathlib.Path, str]:
    """Every file that this script writes, with its text."""
    files = {ROOT / "manifests" / "install.yaml": install()}
    for folder in ("alerts", "dashboards"):
        for source in sorted((CHARTS / "milliner" / folder).iterdir()):
            files[ROOT / "manifests" / folder / source.name] = source.read_text()
    return files


def install() -> str:
    """Namespace, resource definition and operator as one stream of YAML documents."""
    parts = [_HEAD]
    for chart, *options in (("milliner-crds",), ("milliner", "--set", "tests.enabled=false")):
        parts.append(_template(chart, *options))
    return "".join(parts)


def _template(chart: str, *options: str) -> str:
    helm = shutil.which("helm")
    if helm is None:
        raise SystemExit("helm is not on the PATH: install Helm 3 or 4")
    command = [helm, "template", chart, str(CHARTS / chart), "--namespace", NAMESPACE, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HELM_DEADLINE_S, check=False)
    if done.returncode:
        raise SystemExit(f"helm template {chart}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    check = parser.parse_args().check
    stale = [path for path, text in rendered().items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        print(f"{'differs' if check else 'written'}: {path.relative_to(ROOT)}")
        if not check:
            path.write_text(rendered()[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
