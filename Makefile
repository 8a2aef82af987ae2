# Everything is done by scripts/; this file only names it. `make help` lists the targets.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all check lint docs images releases ecosystem distributions suite-in-vm wheel arm64 faults bench soak fuzz mutants clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## set up, and run the examples under gVisor on each platform
	@scripts/demo $(ARGS)

test: ## set up, lint, and test each fault, promise, attack and claim once, as root and as a user, in some 20 minutes (ARGS="-k name")
	@scripts/test $(ARGS)

test-all: ## the whole suite: both users on each platform, other projects' suites, VMs: an hour, before a release (ARGS="-k name")
	@scripts/test --all $(ARGS)

check: ## lint, the unit tests and the quick tests of the plugin, in some three minutes, as any user (ARGS="-k name")
	@scripts/check $(ARGS)

lint: ## ruff, mypy --strict and the English of docstrings
	@scripts/lint

docs: ## build the site of the documents in .build/site (ARGS="-b linkcheck" tries the links)
	@scripts/docs $(ARGS)

images: ## build the images of fixtures/ with docker, as archives in .build/images
	@scripts/images

releases: ## a part of the suite on runsc 20240729, as root
	@scripts/releases

ecosystem: ## larger parts of other projects' suites, and tiny projects for plugins, inside and on the host (half an hour; ARGS="-k plugins")
	@scripts/ecosystem $(ARGS)

suite-in-vm: ## a part of the suite on kvm, and limits where cgroups are of version 2 alone, in a VM
	@scripts/suite-in-vm test-all $(ARGS)

wheel: ## runsc as a wheel, pytest-gvisor-runsc, for x86_64 and aarch64, in dist/ (ARGS="amd64")
	@scripts/wheel $(ARGS)

arm64: ## the package, doctor and the unit tests on an emulated arm64, as root (half an hour)
	@scripts/arm64 $(ARGS)

distributions: ## the demo and a smoke of the suite on bare Debian 12, 13 and sid (ARGS="trixie")
	@scripts/distributions $(ARGS)

faults: ## every fault 20 times, on the real runsc 3 times, 1,000 SIGKILLs (ARGS="--help")
	@scripts/faults $(ARGS)

bench: ## measure side by side with bare runsc, docker and the gvisor package
	@scripts/bench $(ARGS)

soak: ## ten minutes of sandboxes, each checked, and whether anything grows (ARGS="--minutes 1")
	@scripts/soak $(ARGS)

fuzz: ## coverage-guided inputs for all that reads untrusted bytes (ARGS="--runs 1000000")
	@scripts/fuzz $(ARGS)

mutants: ## how many small changes of the code that decides the unit tests notice, as root (an hour at most; goes on where it ended)
	@scripts/mutants

clean: ## remove what the other targets made in this checkout
	@scripts/clean
