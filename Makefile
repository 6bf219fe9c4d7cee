.DEFAULT_GOAL := help
BED := tests/e2e/bed/bed
GENERATED := manifests reference bundle inputs openapi

.PHONY: help demo demo-down test test-faults simulate soak mutants fuzz bench gen check lint format cluster cluster-down shell

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## everything for real on this machine, and one PatchRun followed to its end (root; first time ~28 min)
	@tests/e2e/demo

demo-down: cluster-down ## end the demo and remove every trace

test: ## everything that proves it, level by level (root; make test LEVELS="world package" runs some)
	@tests/run $(LEVELS)

test-faults: ## faults on a real cluster, and the operator killed at random (root; make test-faults FAULTS="F06 F27" tells some)
	@tests/e2e/run $(or $(FAULTS),faults) --limit 3600 $(if $(SEED),--seed $(SEED))

bench: ## measure it and print tables (root; make bench PARTS="code size" runs some, "operator" needs a cluster)
	@benches/run $(PARTS)

simulate: ## random schedules of the model, told (make simulate SEED=7 COUNT=1 tells one)
	@SEED=$(or $(SEED),0) COUNT=$(or $(COUNT),20000) cargo test --workspace --locked --quiet --test model random_schedules -- --nocapture

soak: ## a million of them, from another seed on each day (make soak SEED=7 COUNT=1000000)
	@SEED=$(or $(SEED),$(shell date +%Y%m%d)000000) COUNT=$(or $(COUNT),1000000) \
		cargo test --release --workspace --locked --quiet --test model random_schedules -- --nocapture

mutants: ## deliberate bugs, and the tests that catch each (make mutants MUTANTS="late-lock" tries some)
	@tests/mutants/run $(MUTANTS)

fuzz: ## a minute of each fuzz target; needs a nightly toolchain (make fuzz SECONDS=10 TARGETS="connection_urls" tries one)
	@EACH=$(or $(SECONDS),60) fuzz/run $(TARGETS)

check: format lint ## what needs no cluster and no root: format, lint, the tests of the code
	@tests/run world

lint:
	cargo clippy --workspace --all-targets --locked -- -D warnings

format:
	cargo fmt --all --check

gen: ## write what is generated: crds/, bundle/, docs/reasons.md, docs/reference.md, docs/bad-inputs.md, docs/openapi.json
	UPDATE_MANIFESTS=1 cargo test --quiet --workspace --locked $(GENERATED:%=--test %)

cluster: ## start a real one-node Kubernetes with Tekton, in namespaces of its own (root; first time ~10 min)
	@$(BED) up

cluster-down: ## end it and remove every trace
	@$(BED) down

shell: ## a shell in the cluster of the demo, with kubectl and kubectl fettle ready
	@PATH="$(CURDIR)/target/debug:$$PATH" $(BED) shell
