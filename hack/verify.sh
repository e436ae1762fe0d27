#!/usr/bin/env bash
# Regenerates everything in a copy of the checkout, and fails on whatever differs: the checkout itself is left as it is, and
# need not be committed. Says for each difference which command mends it. Every kustomization must build.
#
#   KUSTOMIZE=path hack/verify.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
KUSTOMIZE=$(realpath "$KUSTOMIZE")

readonly generated=(api config/crd/bases config/rbac bundle docs/api.md)
failed=0
wrong() {
	echo "verify: $1" >&2
	failed=1
}

mkdir -p bin
copy=$(mktemp -d "$PWD/bin/verify.XXXXXX")
trap 'rm -rf "$copy"' EXIT

# What git knows or would know, less what was deleted.
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
	[[ ! -e $file ]] || printf '%s\0' "$file"
done | tar --null --files-from=- --create | tar --extract --directory "$copy"
mkdir -p "$copy/bin"
ln -s "$PWD/bin/tools" "$copy/bin/tools"

if ! make -C "$copy" all; then
	wrong "the generators failed"
else
	for path in "${generated[@]}"; do
		if ! difference=$(diff -ruN "$path" "$copy/$path"); then
			echo "${difference//$copy\//generated/}" | sed -n '1,60p' >&2
			wrong "$path is not what the source makes it: run 'make all' and commit"
		fi
	done
fi

# deployment FOLDER: the manager's Deployment as the folder's kustomization makes it.
deployment() { "$KUSTOMIZE" build "$1" | awk 'BEGIN { RS = "---\n" } /\nkind: Deployment\n/'; }

# with COMPONENT...: a kustomization of the installation and components.
with() {
	mkdir -p "$copy/bin/with"
	printf 'resources: [../../config/default]\ncomponents:\n' >"$copy/bin/with/kustomization.yaml"
	printf -- '- ../../%s\n' "$@" >>"$copy/bin/with/kustomization.yaml"
}

mapfile -t folders < <(cd "$copy" && find config test -name kustomization.yaml | sed 's|/[^/]*$||' | sort)
components=()
for folder in "${folders[@]}"; do
	if grep -q '^kind: Component$' "$copy/$folder/kustomization.yaml"; then
		components+=("$folder")
	elif ! "$KUSTOMIZE" build "$copy/$folder" >/dev/null; then
		wrong "$folder cannot be built by kustomize"
	fi
done
# A patch whose target is not there is no error to kustomize, so each component must change the Deployment.
for component in "${components[@]}"; do
	with "$component"
	if ! changed=$(deployment "$copy/bin/with"); then
		wrong "$component cannot be built by kustomize"
	elif [[ $changed == "$(deployment "$copy/config/default")" ]]; then
		wrong "$component does not change the Deployment of config/default: see the targets of its patches"
	fi
done
with "${components[@]}"
"$KUSTOMIZE" build "$copy/bin/with" >/dev/null || wrong "the components cannot be built together: ${components[*]}"

if ! go mod tidy -diff >&2; then
	wrong "go.mod or go.sum is not tidy: run 'go mod tidy' and commit"
fi

mapfile -d '' -t sources < <(cd "$copy" && find . -name '*.go' -print0)
if ((${#sources[@]})); then
	unformatted=$(cd "$copy" && gofmt -l "${sources[@]}")
	[[ -z $unformatted ]] || wrong "not formatted: ${unformatted//$'\n'/ }: run 'make lint-fix' and commit"
fi
exit "$failed"
