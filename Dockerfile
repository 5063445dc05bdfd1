# Two images from one file: `operator` (no torch) and `runtime` (cloud and device pods, inspect Jobs).
#
#   docker build --target operator -t milliner/operator:test .
#   docker build --target runtime  -t milliner/runtime:test  .
#
# BASE_IMAGE    the base of both: any Debian or Ubuntu, with or without Python. CPU and CUDA servers: the default (CUDA's
#               libraries come with torch's wheels, the driver from the node). Jetson: an L4T image with CUDA, arm64.
# PYTHON        interpreter of the base, 3.11 or later; python3.11 is installed where the base has none of that name.
# TORCH_INDEX   one more index to look for torch in: PyTorch's index of CPU wheels, or NVIDIA's for a JetPack release.
# TORCH         the torch to install; default: what pyproject.toml asks for, at the version in constraints.txt.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG PYTHON=python3.11

FROM ${BASE_IMAGE} AS base
ARG PYTHON
# kopf and torch look up the user's name: 65532 needs an entry in passwd. Pods run as this user on a read-only root.
RUN if ! ${PYTHON} -c 'import venv, ensurepip' 2>/dev/null; then \
        apt-get update -qq \
        && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ${PYTHON} ${PYTHON}-venv \
        && rm -rf /var/lib/apt/lists/*; \
    fi \
    && groupadd --gid 65532 milliner \
    && useradd --uid 65532 --gid 65532 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin milliner
ENV PATH=/opt/milliner/venv/bin:$PATH \
    PYTHONPATH=/opt/milliner/code \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp

FROM base AS venv
ARG PYTHON
RUN ${PYTHON} -m venv /opt/milliner/venv

# The lists change seldom, pyproject.toml often: later layers depend on the lists alone.
FROM venv AS lists
COPY pyproject.toml images/requirements.py /lists/
RUN cd /lists \
    && python requirements.py pyproject.toml --extra operator --only pydantic PyYAML > operator.txt \
    && python requirements.py pyproject.toml --extra runtime --without torch > runtime.txt

FROM venv AS operator-packages
COPY constraints.txt /lists/
COPY --from=lists /lists/operator.txt /lists/
RUN python -m pip install --no-cache-dir --quiet -c /lists/constraints.txt -r /lists/operator.txt \
    && python -m pip uninstall --yes --quiet setuptools pip

FROM base AS operator
COPY --from=operator-packages /opt/milliner/venv /opt/milliner/venv
COPY services/milliner/__init__.py services/milliner/py.typed /opt/milliner/code/milliner/
COPY services/milliner/contract /opt/milliner/code/milliner/contract
COPY operator/milliner_operator /opt/milliner/code/milliner_operator
RUN python -m compileall -q /opt/milliner/code
USER 65532:65532
ENTRYPOINT ["python", "-m", "milliner_operator"]

FROM venv AS runtime
ARG TORCH_INDEX=
ARG TORCH=torch
COPY constraints.txt /lists/
RUN constraints=/lists/constraints.txt; \
    if [ "${TORCH}" != torch ]; then grep -v '^torch==' "$constraints" > /lists/no-torch.txt; constraints=/lists/no-torch.txt; fi; \
    python -m pip install --no-cache-dir --quiet ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} -c "$constraints" "${TORCH}"
COPY --from=lists /lists/runtime.txt /lists/
RUN grep -v '^torch==' /lists/constraints.txt > /lists/no-torch.txt \
    && python -m pip install --no-cache-dir --quiet -c /lists/no-torch.txt -r /lists/runtime.txt
COPY services/milliner /opt/milliner/code/milliner
RUN python -m compileall -q /opt/milliner/code
# What the NVIDIA container runtime mounts from the node, where there is one.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["python", "-m", "milliner.roles"]
