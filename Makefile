# 'make' lists the targets. Go, make and bash are enough; 'make e2e', and 'make demo' on a real mesh, also need Linux, root,
# iptables and pip. Everything that is built or downloaded lands in bin/, once per version.

SHELL := bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

# The next release: what the bundle is called, and the manager where git does not know.
VERSION ?= 0.1.0
GIT_VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo v$(VERSION))
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
IMAGE := ghcr.io/servicesecurity/operator
IMG ?= $(IMAGE):v$(VERSION)

KUBECTL ?= kubectl
DOCKER ?= docker

PACKAGES ?= ./api/... ./controllers/... ./test/crd/... ./test/simulation/... ./test/faults/... .
COVERAGE_MIN ?= 95
E2E_TIMEOUT ?= 60m
FUZZTIME ?= 30s
BENCHTIME ?= 1s

# The test bed's binaries, and those of them that envtest wants: KUBEBUILDER_ASSETS if it is set, otherwise built from source.
TESTBED := hack/testbed/build.sh
KUBERNETES_VERSION := $(shell sed -n 's/.*KubernetesVersion *= "\(.*\)".*/\1/p' test/testbed/binaries.go)
ASSETS := $(or $(KUBEBUILDER_ASSETS),$(CURDIR)/bin/k8s-$(KUBERNETES_VERSION))
CONTROL_PLANE := $(if $(KUBEBUILDER_ASSETS),,testbed-control-plane)

# $(call version,FOLDER,MODULE) is the module's version in the folder's go.mod, the only place where it is written.
version = $(shell sed -n 's|^\(require\)\{0,1\}[[:space:]]*$(2) \(v[^ ]*\).*|\2|p' $(1)/go.mod)
CONTROLLER_GEN := bin/tools/controller-gen-$(call version,hack/tools,sigs.k8s.io/controller-tools)/controller-gen
KUSTOMIZE := bin/tools/kustomize-$(call version,hack/tools,sigs.k8s.io/kustomize/kustomize/v5)/kustomize
CRD_REF_DOCS := bin/tools/crd-ref-docs-$(call version,hack/tools,github.com/elastic/crd-ref-docs)/crd-ref-docs
GOLANGCI_LINT := bin/tools/golangci-lint-$(call version,hack/tools/lint,github.com/golangci/golangci-lint/v2)/golangci-lint
BUNDLE := bin/tools/bundle

# One set of flags for everything, so that every package is compiled once.
export CGO_ENABLED := 0
export GOFLAGS := -trimpath

# Nothing here may reach the cluster of whoever runs it.
test test-istio e2e bench fuzz demo: export KUBECONFIG := /dev/null
test test-istio e2e bench demo: export KUBEBUILDER_ASSETS := $(ASSETS)

##@ Everyday

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET" } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: build ## Take a workload from PERMISSIVE to STRICT and show it. KEEP=1 leaves it running. As root on Linux: a real mesh.
	@if [ "$$(uname -s)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v iptables >/dev/null && python3 -m pip --version >/dev/null 2>&1; \
	then $(MAKE) testbed-mesh; else $(MAKE) testbed-control-plane; fi
	@KEEP="$(KEEP)" go run ./hack/demo

.PHONY: build
build: ## Build the manager, bin/manager.
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(GIT_VERSION)" -o bin/manager .

##@ Tests

.PHONY: test
test: $(CONTROL_PLANE) ## Unit, golden, CRD and controller tests, on a real kube-apiserver.
	@COVERAGE_MIN="$(COVERAGE_MIN)" hack/test.sh $(PACKAGES)

.PHONY: test-istio
test-istio: testbed-istiod ## Every scenario and sample, checked by a real istiod.
	@go test -count=1 -tags istio -timeout 20m ./test/istio/...

.PHONY: e2e
e2e: testbed-e2e build ## Reachability on a real mesh (Linux, root). E2E_LABELS=smoke or E2E_FOCUS=regexp selects.
	@go test -count=1 -tags e2e -timeout $(E2E_TIMEOUT) -v ./test/e2e -ginkgo.v -ginkgo.timeout=$(E2E_TIMEOUT) \
		$(if $(E2E_LABELS),-ginkgo.label-filter='$(E2E_LABELS)') $(if $(E2E_FOCUS),-ginkgo.focus='$(E2E_FOCUS)')

.PHONY: bench
bench: $(CONTROL_PLANE) ## Benchmarks. BENCH=regexp selects; BENCHTIME=1s for each.
	@set -o pipefail; go test -run '^$$' -bench '$(or $(BENCH),.)' -benchmem -benchtime $(BENCHTIME) -timeout 60m ./controllers/... | \
		sed -e '/\[no test files\]/d' -e '/^ok /d' -e '/^PASS$$/d'

.PHONY: fuzz
fuzz: ## Every fuzz target, for FUZZTIME=30s each.
	@hack/fuzz.sh $(FUZZTIME)

##@ Before a commit

.PHONY: verify
verify: $(CONTROLLER_GEN) $(KUSTOMIZE) $(CRD_REF_DOCS) $(BUNDLE) ## Fail if generated files, go.mod or formatting differ from what the source makes, or a kustomization cannot be built.
	@KUSTOMIZE="$(KUSTOMIZE)" hack/verify.sh

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters.
	@$(GOLANGCI_LINT) run ./...

.PHONY: lint-fix
lint-fix: $(GOLANGCI_LINT) ## Run the linters, and mend what they can.
	@$(GOLANGCI_LINT) run --fix ./...

##@ Generated files

.PHONY: all
all: generate manifests bundle docs ## All of them.

# What the generator no longer writes goes.
.PHONY: generate
generate: $(CONTROLLER_GEN) ## api/: deep copies and apply configurations.
	@mkdir -p bin && touch bin/.generate
	@$(CONTROLLER_GEN) object applyconfiguration paths=./api/...
	@find api/applyconfiguration -type f ! -newer bin/.generate -delete

.PHONY: manifests
manifests: $(CONTROLLER_GEN) ## config/: the CRD and the manager's ClusterRole.
	@$(CONTROLLER_GEN) crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	@$(if $(wildcard controllers/*.go),$(CONTROLLER_GEN) rbac:roleName=manager-role paths=./controllers/... output:rbac:artifacts:config=config/rbac)

.PHONY: bundle
bundle: manifests $(KUSTOMIZE) $(BUNDLE) ## bundle/: the OLM bundle, made from config/ and validated.
	@set -o pipefail; $(KUSTOMIZE) build config/manifests | $(BUNDLE) -version $(VERSION) -out bundle

.PHONY: docs
docs: $(CRD_REF_DOCS) ## docs/api.md: the API reference.
	@mkdir -p docs
	@$(CRD_REF_DOCS) --source-path=api/v1alpha1 --config=hack/api-docs.yaml --templates-dir=hack/api-docs --renderer=markdown --output-path=docs/api.md --log-level=ERROR

##@ Cluster

.PHONY: docker-build
docker-build: ## Build the image IMG.
	@$(DOCKER) build --build-arg VERSION=$(GIT_VERSION) --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) -t $(IMG) .

.PHONY: install
install: ## Install the CRD alone.
	@$(KUBECTL) apply -k config/crd

.PHONY: deploy
deploy: $(KUSTOMIZE) ## Install everything. IMG=… for an image of your own.
	@rm -rf bin/deploy && mkdir -p bin/deploy && cd bin/deploy && \
		printf 'resources:\n- ../../config/default\n' >kustomization.yaml && ../../$(KUSTOMIZE) edit set image $(IMAGE)=$(IMG)
	@$(KUBECTL) apply -k bin/deploy

.PHONY: undeploy
undeploy: ## Remove everything. Refused while there are profiles, unless FORCE=1: what they secure opens.
	@profiles=$$($(KUBECTL) get servicesecurityprofiles.servicesecurity.dev --all-namespaces --no-headers --ignore-not-found 2>/dev/null | wc -l); \
	if [ "$$profiles" -gt 0 ] && [ -z "$(FORCE)" ]; then \
		echo "undeploy: $$((profiles)) profile(s) left, and removing the CRD removes them and their Istio objects: delete them first, or say FORCE=1" >&2; exit 1; \
	fi
	@$(KUBECTL) delete -k config/default --ignore-not-found

##@ Built once into bin/

.PHONY: testbed
testbed: testbed-mesh ## The test bed: etcd, kube-apiserver, istiod, Envoy, … About 15 minutes on 2 cores, the first time.

.PHONY: testbed-control-plane testbed-istiod testbed-mesh testbed-e2e
testbed-control-plane testbed-istiod testbed-mesh testbed-e2e:
	@[ -x bin/k8s-$(KUBERNETES_VERSION)/kube-apiserver ] || echo "Building a kube-apiserver from source: about 5 minutes on 2 cores, once."
	@$(TESTBED) $(@:testbed-%=%)

.PHONY: tools
tools: $(CONTROLLER_GEN) $(KUSTOMIZE) $(CRD_REF_DOCS) $(GOLANGCI_LINT) $(BUNDLE) ## The generators and linters.

# $(call tool,FOLDER,PACKAGE) builds a tool of that module. The version is in the target's path, so a new one is built anew.
define tool
@echo "Building $(@F) (once$(3))"
@mkdir -p $(@D)
@cd $(1) && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(CURDIR)/$@.part $(2) && mv $(CURDIR)/$@.part $(CURDIR)/$@
endef

$(CONTROLLER_GEN):
	$(call tool,hack/tools,sigs.k8s.io/controller-tools/cmd/controller-gen)
$(KUSTOMIZE):
	$(call tool,hack/tools,sigs.k8s.io/kustomize/kustomize/v5)
$(CRD_REF_DOCS):
	$(call tool,hack/tools,github.com/elastic/crd-ref-docs)
$(GOLANGCI_LINT):
	$(call tool,hack/tools/lint,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,: about 3 minutes on 2 cores)
$(BUNDLE): $(wildcard hack/tools/bundle/*.go) hack/tools/bundle/go.mod hack/tools/bundle/go.sum
	$(call tool,hack/tools/bundle,.,: about 1 minute)
