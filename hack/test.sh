#!/usr/bin/env bash
# Runs the tests of the packages given, and holds the packages without I/O to COVERAGE_MIN per cent of their statements.
#
#   hack/test.sh PACKAGE...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly pure='/controllers/(rollout|plan|istio|status)$'
# The suite of the whole operator has times in it, of which busy neighbours would make others.
readonly alone='/controllers$'
readonly min=${COVERAGE_MIN:-95} profile=bin/coverage.out

# gotest runs go test without its lines about packages that have no tests.
gotest() { go test -timeout 20m "$@" | sed '/\[no test files\]/d'; }

packages=$(go list "$@")
mapfile -t covered < <(grep -E "$pure" <<<"$packages" || true)
mapfile -t suites < <(grep -E "$alone" <<<"$packages" || true)
mapfile -t others < <(grep -vE "$pure|$alone" <<<"$packages" || true)

mkdir -p bin
if ((${#covered[@]})); then
	gotest -covermode=set -coverprofile="$profile" "${covered[@]}"
fi
if ((${#others[@]})); then
	gotest "${others[@]}"
fi
if ((${#suites[@]})); then
	gotest "${suites[@]}"
fi
if ((${#covered[@]})); then
	# A line of the profile: package/file.go:from,to statements count
	awk -v min="$min" '
		/^mode:/ { next }
		{
			package = $1
			sub(/\/[^\/]*:.*$/, "", package)
			sub(/^.*\/controllers\//, "controllers/", package)
			all[package] += $2
			if ($3 > 0) hit[package] += $2
		}
		END {
			for (package in all) {
				share = 100 * hit[package] / all[package]
				if (share < min) {
					printf "test: %s: %.1f %% of statements are covered, %s %% are needed; see go tool cover -func=bin/coverage.out\n", package, share, min
					failed = 1
				}
			}
			exit failed
		}' "$profile" >&2
fi
