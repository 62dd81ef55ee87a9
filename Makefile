# make setup   runtime and ROS into .venv, build the ROS package into build/ and install/
# make test    the whole test suite (installs torch and the test tools first)
# make demo    people drawn on a picture or video through the real node: make demo INPUT=path (default: a sample)
# make lint    ruff and mypy
# make clean   remove everything that the above made
#
# With a ROS distribution sourced its rclpy is used; without, the real rclpy is installed from wheels into .venv.
# Every step leaves a stamp in .venv, so nothing is installed twice. BASE_PYTHON=python3.12 picks the interpreter.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One step at a time: pip and colcon bring their own parallelism.
.NOTPARALLEL:

VENV := .venv
PYTHON := $(VENV)/bin/python
IN_ENV := scripts/in_env.sh
STAMPS := $(VENV)/stamps
PYTEST_ARGS ?=
INPUT ?=

# What the colcon build depends on. The Python packages are installed as links, so that an edit needs no new build;
# a file that is new or gone does, hence the list of files as a stamp of its own.
PACKAGE_DIRS := kdc_core kdc_ros kdc_model kdc_cli kdc_replay kdc_bench launch config weights
BUILD_INPUTS := CMakeLists.txt package.xml $(wildcard msg/*.msg) scripts/kdc_node.in scripts/build_ros.sh

.PHONY: help setup test-setup test demo lint clean check-mode FORCE

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

setup: check-mode $(STAMPS)/runtime $(STAMPS)/build

test-setup: setup $(STAMPS)/test $(STAMPS)/test-interfaces

test: test-setup
	$(IN_ENV) python -m pytest --timeout 600 $(PYTEST_ARGS)

demo: setup $(STAMPS)/demo
	$(IN_ENV) $(PYTHON) -m kdc_ros.demo $(if $(INPUT),--input "$(INPUT)") --out out/demo

lint: setup $(STAMPS)/dev
	$(IN_ENV) ruff check .
	$(IN_ENV) mypy

clean:
	rm -rf $(VENV) build install log out/demo .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A .venv made without ROS does not serve a sourced distribution, nor the other way round.
check-mode:
	@scripts/ros_mode.sh --check $(VENV)

$(STAMPS)/venv: scripts/make_venv.sh scripts/ros_mode.sh
	scripts/make_venv.sh $(VENV)
	@touch $@

$(STAMPS)/runtime: $(STAMPS)/venv requirements/runtime.txt requirements/ros-wheels.txt pyproject.toml scripts/install_runtime.sh
	scripts/install_runtime.sh $(VENV)
	@touch $@

$(STAMPS)/test: $(STAMPS)/runtime requirements/test.txt requirements/train.txt requirements/demo.txt \
		requirements/replay.txt requirements/no-deps.txt
	scripts/install_requirements.sh $(VENV) requirements/test.txt
	scripts/install_requirements.sh --no-deps $(VENV) requirements/no-deps.txt
	@touch $@

$(STAMPS)/test-interfaces: $(STAMPS)/build scripts/build_test_interfaces.sh $(wildcard tests/interfaces/*/msg/*.msg)
	scripts/build_test_interfaces.sh $(VENV)
	@touch $@

$(STAMPS)/demo: $(STAMPS)/runtime requirements/demo.txt
	scripts/install_requirements.sh $(VENV) requirements/demo.txt
	@touch $@

$(STAMPS)/dev: $(STAMPS)/runtime requirements/dev.txt
	scripts/install_requirements.sh $(VENV) requirements/dev.txt
	@touch $@

# Made again, too, where somebody has removed install/.
$(STAMPS)/build: $(STAMPS)/runtime $(STAMPS)/file-list $(BUILD_INPUTS) $(if $(wildcard install/local_setup.bash),,FORCE)
	scripts/build_ros.sh $(VENV)
	@touch $@

$(STAMPS)/file-list: $(STAMPS)/runtime FORCE
	@find $(PACKAGE_DIRS) -type f -not -path '*/__pycache__/*' 2>/dev/null | LC_ALL=C sort > $@.new || true
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

FORCE:
