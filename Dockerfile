# Two images from one file: `operator` (no torch) and `runtime` (cloud and device pods, inspect Jobs).
#
#   docker build --target operator -t milliner/operator:test .
#   docker build --target runtime  -t milliner/runtime:test  .
#
# BASE_IMAGE    the base of both: any Debian or Ubuntu, with or without Python. CPU and CUDA servers: the default (CUDA's
#               libraries come with torch's wheels, the driver from the node). Jetson: an L4T image with CUDA, arm64.
# PYTHON        interpreter of the base, 3.11 or later; python3.11 is installed where the base has none of that name.
# TORCH_INDEX   one more index to look for torch in: PyTorch's index of CPU wheels, or NVIDIA's for a JetPack release.
# TORCH         the torch to install, such as torch==2.12.0; default: the version in constraints.txt.
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

# The lists change seldom, pyproject.toml often: later layers depend on the lists alone, torch's only on the few versions
# that concern it.
FROM venv AS lists
COPY pyproject.toml constraints.txt images/requirements.py /lists/
RUN cd /lists \
    && python requirements.py pyproject.toml --extra operator --only pydantic PyYAML > operator.txt \
    && python requirements.py pyproject.toml --extra runtime --without torch > runtime.txt \
    && grep -iE '^(filelock|fsspec|jinja2|markupsafe|mpmath|networkx|sympy|typing_extensions)==' constraints.txt > torch-needs.txt \
    && grep '^torch==' constraints.txt > torch.txt \
    && grep -v '^torch==' constraints.txt > others.txt

# Compiled, and readable for every user whatever the umask of the checkout was.
FROM venv AS code
COPY services/milliner /code/milliner
COPY operator/milliner_operator /code/milliner_operator
RUN chmod -R a+rX /code && python -m compileall -q -s /code -p /opt/milliner/code /code

# kubernetes/aio is the whole client once more, for asyncio: 68 MB that nothing here imports.
FROM venv AS operator-packages
COPY --from=lists /lists/operator.txt /lists/others.txt /lists/
RUN python -m pip install --no-cache-dir --quiet -c /lists/others.txt -r /lists/operator.txt \
    && rm -rf /opt/milliner/venv/lib/python3*/site-packages/kubernetes/aio \
    && python -m pip uninstall --yes --quiet setuptools pip

FROM base AS operator
COPY --from=operator-packages /opt/milliner/venv /opt/milliner/venv
COPY --from=code /code/milliner/__init__.py /code/milliner/py.typed /opt/milliner/code/milliner/
COPY --from=code /code/milliner/contract /opt/milliner/code/milliner/contract
COPY --from=code /code/milliner_operator /opt/milliner/code/milliner_operator
USER 65532:65532
ENTRYPOINT ["python", "-m", "milliner_operator"]

FROM venv AS runtime
ARG TORCH_INDEX=
ARG TORCH=
COPY --from=lists /lists/torch.txt /lists/torch-needs.txt /lists/
RUN if [ -n "${TORCH}" ]; then echo "${TORCH}" > /lists/torch.txt; fi; \
    python -m pip install --no-cache-dir --quiet ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
        -c /lists/torch-needs.txt -r /lists/torch.txt
COPY --from=lists /lists/runtime.txt /lists/others.txt /lists/
RUN python -m pip install --no-cache-dir --quiet -c /lists/others.txt -r /lists/runtime.txt
COPY --from=code /code/milliner /opt/milliner/code/milliner
# What the NVIDIA container runtime mounts from the node, where there is one.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["python", "-m", "milliner.roles"]
