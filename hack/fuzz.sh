#!/usr/bin/env bash
# Runs every fuzz target of api/, controllers/ and test/simulation for the given time each.
#
#   hack/fuzz.sh [30s]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly time=${1:-30s}
folders=$({ grep -rl --include='*_test.go' '^func Fuzz' api controllers test/simulation || true; } | xargs -r -n1 dirname | sort -u)
if [[ -z $folders ]]; then
	echo "fuzz: there is no fuzz target in api/, controllers/ and test/simulation" >&2
	exit 1
fi
for folder in $folders; do
	for target in $(go test -list '^Fuzz' "./$folder" | grep '^Fuzz'); do
		echo "fuzz: $folder $target, $time"
		if ! output=$(go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$folder" 2>&1); then
			echo "$output"
			echo "fuzz: $target found an input that fails; it is now in $folder/testdata/fuzz and fails in 'make test' until it is mended" >&2
			exit 1
		fi
	done
done
