# Every target sets up what it needs in .venv; nothing by hand before but Python >= 3.11 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# By exact version, first and alone: on an index with several builds anything else may pull CUDA's.
TORCH  ?= torch==2.13.0

# Of `make crash-test`: kills of each role, and the seed that chooses them.
CRASH_POINTS ?= 200
CRASH_SEED   ?= 1
# Of `make fault-simulation`: lists of operations, and the number of the first one.
LISTS ?= 10000
SEED  ?= 20000
# Of `make closed-sums-table`, `camouflage-table` and `audit-demo` (one): files of edits; none takes the
# project's own facts. Also of `make reassertion-table`, which needs one, and facts from FACTS.
DATA  ?=
FACTS ?= $(firstword $(DATA))
# Of `make fuzz`: executions of all targets together, and where its random walk starts (1 or more).
FUZZ_RUNS ?= 200000
FUZZ_SEED ?= 1
# Of `make dist` and `sbom`: the commit that is released. Of `make audit-dependencies`: who is asked.
COMMIT  ?= HEAD
SERVICE ?= pypi
# The oldest Python that is supported: its lock has what only old ones need.
LOCK     = $(TOOLS)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate

export HF_HUB_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-slow test-network check docs format protos bench bench-all bench-peers bench-ckks fuzz dropout-matrix fault-simulation dist locks audit-dependencies licences sbom parity-table lie-table tampering-table closed-sums-table reassertion-table camouflage-table model-attacks-table crash-test experiments audit-demo clean
help:
	@echo "make demo       three institutions edit a real model over gRPC (about 4 minutes)"
	@echo "make test       fast test suite"
	@echo "make test-slow  real model, real processes"
	@echo "make test-network  processes between network namespaces, needs root (about 7 minutes)"
	@echo "make check      ruff, mypy --strict, import contracts, generated code fresh, docs"
	@echo "make docs       the documentation as a site, out/site/index.html"
	@echo "make protos     regenerate proto/v1 from the .proto files"
	@echo "make bench      the main benchmarks: JSON, a page and plots under out/bench (about 8 minutes)"
	@echo "make bench-all  all of them"
	@echo "make bench-peers  a client beside Flower's, which is installed under out/peers"
	@echo "make bench-ckks CKKS beside TenSEAL's and NVFlare's settings and masked sums; memory of a session"
	@echo "make dropout-matrix  lose parties in every round: exact sum or clean abort (about 10 minutes)"
	@echo "make parity-table  every editor's merged update against its centralised closed form"
	@echo "make experiments  small experiments on the project's own facts, under out/experiments"
	@echo "make audit-demo attack real sessions under several defences, report in out/audit/demo, DATA=FILE of edits (about 10 minutes)"
	@echo "make lie-table  try every lie of a coordinator or a party, and say what refused it"
	@echo "make tampering-table  alter merges of closed sums by more and less, and say what parties notice"
	@echo "make closed-sums-table  what the aggregator's attacks get out of sums, DATA=\"FILE ...\" of edits (about 10 minutes)"
	@echo "make reassertion-table  what re-assertions hide and cost, DATA=\"FILE ...\" of edits, FACTS=FILE (about 7 minutes)"
	@echo "make camouflage-table  what camouflage of a published update buys and costs, DATA=\"FILE ...\" of edits (about 20 minutes)"
	@echo "make model-attacks-table  attacks that run the model: prompts, objects, whole facts, DATA=FILE of edits (about 10 minutes)"
	@echo "make crash-test  kill -9 at CRASH_POINTS random points, report in out/crash-test.json"
	@echo "make fault-simulation  LISTS lists of faults from SEED on, report in out/fault-simulation.json"
	@echo "make fuzz       coverage-guided fuzzing, FUZZ_RUNS and FUZZ_SEED, report in out/fuzz.json"
	@echo "make dist       wheel, sdist and SHA256SUMS of the commit COMMIT, the same bytes each time, in out/dist"
	@echo "make licences   what each package of a release says about its licence, in out/licences.md"
	@echo "make sbom       CycloneDX list of these packages, in out/sbom.json"
	@echo "make audit-dependencies  known advisories about them, SERVICE=pypi or osv; fails if it is not reached"
	@echo "make locks      write release/locks and release/tools.txt anew, with hashes from the index"

$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,fuzz]"
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/collabedit demo

# A thread for each of the two workers: more would be in each other's way.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow --timeout 900 --numprocesses 2 --dist loadfile --durations 30

# Its own result is out/network.json; if nothing could run, it fails.
test-network: $(VENV)/.dev
	$(BIN)/pytest tests/network -m network --timeout 600

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory protos
	git diff --exit-code -- proto/v1
	$(MAKE) --no-print-directory docs

# Without a network; the first variable silences an announcement of the theme's authors.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I src --python_out=src \
	  --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=src src/collabedit/proto/v1/*.proto

# What is asked of this project, and the page; `bench-all` is everything that has no extra to install.
BENCHES ?= masks peers merge transport targets keys gpu scale links
bench: $(VENV)/.dev
	for name in $(BENCHES); do $(BIN)/python benchmarks/bench_$$name.py || exit 1; done
	$(BIN)/python benchmarks/page.py

bench-all: $(VENV)/.dev
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done
	$(BIN)/python benchmarks/page.py

# Peers have packages of their own, which would not go with ours: a virtual environment apart.
out/peers/.flower:
	$(PYTHON) -m venv out/peers
	out/peers/bin/pip install --quiet "flwr>=1.41,<1.43"
	@touch $@

bench-peers: $(VENV)/.dev out/peers/.flower
	$(BIN)/python benchmarks/bench_peers.py

bench-ckks: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_ckks.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_ckks_session.py

# Cells are processes already: more threads in each would only be in each other's way.
fault-simulation: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.simulation.faults.campaign --seed $(SEED) \
	  --lists $(LISTS) --out out/fault-simulation.json

dropout-matrix: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.dropout_matrix

parity-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.parity_table

tampering-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.tampering_table

experiments: $(VENV)/.dev
	for file in experiments/small/*.toml; do $(BIN)/collabedit experiment run $$file || exit 1; done

audit-demo: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/collabedit audit run --config audits/demo.toml $(if $(DATA),--data $(DATA))
	$(BIN)/collabedit audit check out/audit/demo

lie-table: $(VENV)/.dev
	$(BIN)/python -m tests.audit.lie_table

closed-sums-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.closed_sums_table $(if $(DATA),--data $(DATA))

reassertion-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.reassertion_table --data $(DATA) --facts $(FACTS)

model-attacks-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.model_attacks_table $(if $(DATA),--data $(DATA))

camouflage-table: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audit.camouflage_table $(if $(DATA),--data $(DATA))

crash-test: $(VENV)/.dev
	$(BIN)/python -m tests.crash --points $(CRASH_POINTS) --seed $(CRASH_SEED)

fuzz: $(VENV)/.fuzz
	$(BIN)/python -m tests.fuzz.run --runs $(FUZZ_RUNS) --seed $(FUZZ_SEED)

# Tools of releases are in an environment of their own, as the peers of benchmarks are.
TOOLS := out/release/bin
out/release/.tools: release/tools.txt
	$(PYTHON) -m venv out/release
	$(TOOLS)/pip install --quiet --require-hashes --requirement release/tools.txt
	@touch $@

# What users run, without our tools for development: links to the packages of $(VENV).
out/runtime/.made: $(VENV)/.dev release/closure.py
	$(BIN)/python release/closure.py --environment out/runtime
	@touch $@

dist: out/release/.tools
	$(TOOLS)/python release/distributions.py --commit $(COMMIT) --out out/dist

licences: out/release/.tools out/runtime/.made
	$(BIN)/python release/licences.py > out/runtime/licences.txt
	$(TOOLS)/pip-licenses --python out/runtime/bin/python --with-urls --format markdown \
	  --output-file out/licences.md

# The tool does not know where setuptools finds the version, so it is written for it.
sbom: out/release/.tools out/runtime/.made
	version=$$(sed -n 's/^__version__ = //p' src/collabedit/__init__.py) && \
	  sed "s/^dynamic = \[\"version\"\]/version = $$version/" pyproject.toml > out/runtime/pyproject.toml
	SOURCE_DATE_EPOCH=$$(git show --no-patch --format=%ct $(COMMIT)) $(TOOLS)/cyclonedx-py environment \
	  --pyproject out/runtime/pyproject.toml --output-reproducible --validate --output-file out/sbom.json \
	  out/runtime/bin/python

audit-dependencies: out/release/.tools $(VENV)/.dev
	$(BIN)/python release/closure.py > out/release/pins.txt
	$(TOOLS)/python release/advisories.py out/release/pins.txt --service $(SERVICE) --out out/advisories.json

# Versions are those installed here; hashes come from the index. There are several builds of torch,
# and which one is the party's choice.
locks: $(VENV)/.dev
	test -x $(TOOLS)/uv || { $(PYTHON) -m venv out/release && $(TOOLS)/pip install --quiet uv; }
	for extra in aggregator party; do \
	  $(BIN)/python release/closure.py $$extra --without torch > out/release/$$extra.in && \
	  $(LOCK) --no-deps out/release/$$extra.in --output-file release/locks/$$extra.txt || exit 1; done
	$(LOCK) --universal --upgrade release/tools.in --output-file release/tools.txt

clean:
	rm -rf $(VENV) out .cache build dist
