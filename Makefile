.DEFAULT_GOAL := help
BED := tests/e2e/bed/bed

.PHONY: help cluster cluster-down shell

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

cluster: ## start a real one-node Kubernetes with Tekton, in namespaces of its own (root; first time ~10 min)
	@$(BED) up

cluster-down: ## end it and remove every trace
	@$(BED) down

shell: ## a shell in it, with kubectl ready
	@$(BED) shell
