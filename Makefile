# Everything happens in .venv; `make demo` and `make test` set it up first. A second run is quick.
#   make setup TORCH_INDEX=URL   also looks for torch at URL, such as PyTorch's index of CPU wheels: +cpu builds win
#   make setup PYTHON=python3.12 uses another interpreter (3.11 or later)
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PIP_FLAGS := --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PYTEST_FLAGS ?=
# One thread of torch per process: the processes that system tests start do not fight for cores, and float32 sums keep
# their order. Tests themselves run one after the other: many of them look at durations.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test cluster-test e2e check lint format proto docs crd manifests images clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install Milliner and everything it needs into .venv

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python found. Install Python 3.11: apt-get install python3.11 python3.11-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11. Install Python 3.11 or name one: make setup PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) lacks venv. On Debian or Ubuntu: apt-get install python3-venv (or python3.11-venv)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_FLAGS) --quiet --progress-bar off -c constraints.txt -e '.[runtime,operator,dev]'
	@touch $@

demo: $(STAMP) ## Answer a prompt with a model split over an emulated Wi-Fi link, UShape and Hat side by side
	@$(BIN)/milliner demo

test: $(STAMP) ## All tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

cluster-test: $(STAMP) ## Tests against the API server that KUBECONFIG names
	@test -n "$$KUBECONFIG" || { echo "cluster-test needs a Kubernetes API server (1.30 or later): set KUBECONFIG to the kubeconfig of one where you may create definitions and namespaces, such as a kind cluster's"; exit 1; }
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/cluster

e2e: $(STAMP) ## Tests on the real nodes of the cluster that KUBECONFIG names
	@test -n "$$KUBECONFIG" || { echo "e2e needs a Kubernetes cluster (1.30 or later) whose nodes have Milliner's images: set KUBECONFIG to its kubeconfig; with kind, see manifests/kind"; exit 1; }
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/e2e

lint: $(STAMP) ## Format, ruff, mypy, import directions; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test ## What CI runs: lint and test

format: $(STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# An older compiler on purpose: generated code runs with its own version of protobuf and all later ones, so this one
# leaves users the choice between protobuf 6 and 7. It does not go with .venv's protobuf, hence a place of its own.
proto: ## Generate the protocol's Python code from contract/proto
	$(PYTHON) -m venv build/proto
	build/proto/bin/pip install $(PIP_FLAGS) -q grpcio-tools==1.74.0
	build/proto/bin/python -m grpc_tools.protoc -Iservices --python_out=services --pyi_out=services \
		milliner/contract/proto/hidden_states.proto milliner/contract/proto/tokens.proto

docs: $(STAMP) ## Generate docs/topology.md from the schema
	$(BIN)/python -m milliner.contract.reference docs/topology.md

CRD_FILES := manifests/crd/inferencetopologies.milliner.dev.yaml charts/milliner-crds/templates/inferencetopologies.milliner.dev.yaml
crd: $(STAMP) ## Generate the CustomResourceDefinition from the schema, and with helm what manifests/ has of it
	$(foreach file,$(CRD_FILES),$(BIN)/milliner crd --out $(file) &&) true
	@if command -v helm >/dev/null; then $(BIN)/python manifests/render.py; \
	else echo "manifests/install.yaml holds the definition too: where helm is, run make manifests"; fi

manifests: $(STAMP) ## Render manifests/ from the charts; needs helm
	$(BIN)/python manifests/render.py

images: ## Build milliner/operator:test and milliner/runtime:test with docker
	docker build --target operator -t milliner/operator:test .
	docker build --target runtime -t milliner/runtime:test $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX)) .

clean: ## Remove .venv and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find services operator tests -name __pycache__ -type d -prune -exec rm -rf {} +
