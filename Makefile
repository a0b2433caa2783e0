# Every target makes .venv and installs what it needs; a second call reuses it. Needs python3 (3.11 to 3.13) and make.
# pip's own settings (an index for CPU wheels, a proxy, a mirror) hold: set them in pip.conf or as PIP_… variables.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-sim
DEV_STAMP := $(VENV)/.installed-dev
SYSTEM_STAMP := $(VENV)/.installed-system
# What the tests run beside Python, as program or file:Debian package. tinyproxy-bin starts no service of its own; those
# that orthanc and nginx bring are stopped where they were installed here.
SYSTEM := tinyproxy:tinyproxy-bin nginx:nginx-light chromium:chromium ip:iproute2 unshare:util-linux storescu:dcmtk Orthanc:orthanc \
  /usr/share/orthanc/plugins/libOrthancDicomWeb.so:orthanc-dicomweb /usr/share/fonts/truetype/wqy/wqy-microhei.ttc:fonts-wqy-microhei
SEEDS ?= 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: help demo test test-all check bench studies models hub-demo stubs format clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Fedward needs Python 3.11 to 3.13; $(PYTHON) is another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[sim]'
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(SYSTEM_STAMP): Makefile | $(VENV)/bin/python
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for each in $(SYSTEM); do \
	  command -v $${each%:*} >/dev/null || [ -e $${each%:*} ] || missing="$$missing $${each#*:}"; \
	done; \
	if [ -n "$$missing" ]; then \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } \
	  || { echo "The tests need$$missing; install them: sudo apt-get install$$missing" >&2; exit 1; }; \
	  for each in orthanc nginx-light; do case "$$missing " in *" $$each "*) \
	    { systemctl disable --quiet $${each%-light}; systemctl stop $${each%-light}; } >/dev/null 2>&1 || : ;; \
	  esac; done; \
	fi
	@touch $@

demo: $(RUN_STAMP)  ## Three phantom hospitals train one breast-ultrasound model: demo-output/report.html
	$(BIN)/fedward demo --out demo-output --seeds $(SEEDS)

test: $(DEV_STAMP) $(SYSTEM_STAMP)  ## The tests (at most 12 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not long'

test-all: $(DEV_STAMP) $(SYSTEM_STAMP)  ## The long ones too
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile thorough

check: $(DEV_STAMP)  ## Style, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV_STAMP)  ## Benchmarks, each beside its reference: make bench ONLY=aggregation,simulation-rounds
	$(BIN)/python -m fedward_simulations.benchmarks $(if $(ONLY),--only $(ONLY))

studies: $(DEV_STAMP)  ## The studies, for hours: make studies DATA=folder writes docs/results.*, docs/limits.md
	@test -n "$(DATA)" || { echo "Say where the collections are: make studies DATA=folder" >&2; exit 1; }
	$(BIN)/python -m fedward_simulations.studies --data $(DATA)

models: $(RUN_STAMP)  ## Every network measured: docs/models.md
	$(BIN)/python -m fedward_simulations.models_page

hub-demo: $(RUN_STAMP)  ## What `fedward hub up --demo` shows, from runs that take minutes
	$(BIN)/python -m fedward_simulations.hub_demo

stubs:  ## Generate the gRPC stubs anew from client/fedward_client/site.proto
	$(PYTHON) -m venv .venv-stubs
	.venv-stubs/bin/python -m pip install --quiet 'grpcio-tools==1.80.0' 'protobuf<7' 'setuptools<81'
	cd client && ../.venv-stubs/bin/python -m grpc_tools.protoc -I fedward_client/stubs=fedward_client \
	  --python_out=. --pyi_out=. --grpc_python_out=. fedward_client/stubs/site.proto

format: $(DEV_STAMP)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove .venv and what runs leave
	rm -rf $(VENV) demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
