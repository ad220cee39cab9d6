# What a developer of MortalGPU runs. `just` alone lists it. Tools come from .venv, which packaging/venv.sh makes.

export PATH := justfile_directory() / ".venv/bin" + ":" + env("PATH")

# List the recipes.
default:
    @just --list --unsorted

# The ordinary check: style, types, architecture, and every test that needs nothing but this checkout.
check: lint types contracts test

# Style and formatting.
lint:
    ruff check mortalgpu tests packaging
    ruff format --check mortalgpu tests packaging

# Types, strict.
types:
    mypy

# The architecture, as import contracts (pyproject.toml).
contracts:
    lint-imports

# The fast tests; extra words go to pytest.
test *words:
    pytest -q -m "not e2e and not frozen and not gpu" {{ words }}

# Build what the end-to-end tests run: kubelet, the device manager, images (root; minutes the first time, then cached).
e2e-build:
    python -m tests.e2e.build
    python -m tests.chart.build
    python -m tests.e2e.apiserver.build
    python -m tests.e2e.cluster.build
    python -m tests.fuzz.build

# The end-to-end tests: a real kubelet, containerd, the device manager alone, a Kubernetes API.
e2e *words: e2e-build
    pytest -q -m e2e tests {{ words }}

# The fault campaign: ports and partners fail, hang, lie and vanish; `--campaign long` for the long form.
faults *words: e2e-build
    pytest -q -m faults tests {{ words }}

# The hostile tenant campaign: what a container may try; `--campaign long` for the long form.
hostile *words: e2e-build
    pytest -q -m hostile tests {{ words }}

# With atheris, which is none of the tools of development (pip install atheris), coverage guides the hour.
# The fuzzing campaign: every parser of foreign bytes; `--campaign long` for an hour of it.
fuzz *words:
    python -m tests.fuzz.build
    pytest -q -m fuzz tests {{ words }}

# Checks that need a real NVIDIA GPU.
gpu *words:
    pytest -q -m gpu tests {{ words }}

# Build the static binary, its SBOM and licences: build/mortalgpu (on Debian 12; as root it installs what it needs).
binary:
    nice python packaging/binary/freeze.py binary

# Build mgctl as a directory that runs in any container: build/mgctl.
mgctl:
    nice python packaging/binary/freeze.py mgctl

# Build the container image, without an engine or a registry: build/image.tar (an OCI archive).
image: binary mgctl
    sh packaging/image/build.sh

# Build the .deb and the .rpm, with the systemd unit.
packages: binary mgctl
    sh packaging/packages/build.sh

# Build what people install, and test it: the binary, mgctl, the image, the packages (root for the roots they run in).
test-binary *words: image packages (frozen words) (on-binary words)

# The tests of the frozen program, as built.
frozen *words:
    python -m tests.frozen.built
    pytest -q -m frozen tests {{ words }}

# The tests with real partners against the binary, as built; without two of the campaigns, and the cluster, which runs the image.
on-binary *words:
    MORTALGPU_BIN={{ justfile_directory() }}/build/mortalgpu pytest -q -m "not slow and not gpu and not faults and not fuzz" tests/e2e --ignore tests/e2e/cluster {{ words }}

# Every figure, frozen and not, against the last result kept; --short for CI, --keep, --check, --profile (CONTRIBUTING.md).
bench *words:
    python -m tests.bench {{ words }}

# The soak: the daemon for two hours on a node that never rests; `--for 60` for a minute of it. Judged, with charts, in build/.
soak *words:
    python -m tests.soak {{ words }}

# Generate the protobuf modules from proto/ (committed).
proto:
    PYTHON=python sh packaging/proto.sh

# Rewrite the golden pages, to be read before they are committed.
golden:
    MORTALGPU_REWRITE_GOLDEN=1 pytest -q tests -k golden -m "not e2e and not frozen and not gpu"

# Make what in the chart follows from something else: the schema, the README's table, the manifests without Helm.
chart:
    python packaging/chart.py

# Format the source.
format:
    ruff check --fix mortalgpu tests packaging
    ruff format mortalgpu tests packaging
