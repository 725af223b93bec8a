# make run    set up, then run the main job: the paper's first table on the embedded workload
# make test   set up, then pass the tests
# make test-faults   kill, damage and fill disks by the dozen (a quarter of an hour); a few of them are in make test
# make check  set up, then lint, types and layers
PYTHON ?= python3
READY := .venv/.ready

.PHONY: run test test-faults check clean
.DELETE_ON_ERROR:

run: $(READY)
	.venv/bin/harness run grids/position_axis.yaml

test: $(READY)
	.venv/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

test-faults: $(READY)
	.venv/bin/pytest -m faults

check: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv
