package status

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/apply"
)

// applyReason is the gravest reason of what could not be written.
func applyReason(err error) string {
	var foreign *apply.ForeignObjectError
	var unsupported *apply.UnsupportedError
	var absent *apply.NotInstalledError
	switch {
	case errors.As(err, &absent):
		return v1alpha1.ReasonIstioNotInstalled
	case errors.As(err, &unsupported):
		return v1alpha1.ReasonUnsupportedByIstio
	case errors.As(err, &foreign):
		return v1alpha1.ReasonForeignObject
	}
	return v1alpha1.ReasonApplyFailed
}

// applyMessage has a sentence for each thing that could not be written, the one that gave the reason first.
func applyMessage(err error) string {
	all := together(flatten(err))
	reason := applyReason(err)
	slices.SortStableFunc(all, func(a, b error) int { return rank(a, reason) - rank(b, reason) })
	var texts []string
	for _, one := range all {
		if text := explain(one); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, " ")
}

// together makes one error of those of kinds that are not installed: their remedy is the same.
func together(all []error) []error {
	var rest []error
	var kinds []string
	for _, err := range all {
		if absent := new(apply.NotInstalledError); errors.As(err, &absent) {
			kinds = append(kinds, absent.Kind)
			continue
		}
		rest = append(rest, err)
	}
	if len(kinds) > 0 {
		rest = append(rest, &apply.NotInstalledError{Kind: strings.Join(kinds, " or ")})
	}
	return rest
}

func rank(err error, reason string) int {
	if applyReason(err) == reason {
		return 0
	}
	return 1
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	switch joined := err.(type) { //nolint:errorlint // joined errors are looked into, not unwrapped
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var all []error
		for _, one := range joined.Unwrap() {
			all = append(all, flatten(one)...)
		}
		return all
	}
	return []error{err}
}

// explain is an error as a sentence, with a remedy unless it brings its own.
func explain(err error) string {
	text := sentence(err)
	if applyReason(err) != v1alpha1.ReasonApplyFailed {
		return text
	}
	switch {
	case strings.Contains(text, "admission webhook"):
		return text + " See why that webhook refuses what the operator writes."
	case apierrors.IsForbidden(err):
		return text + " Give the operator's ServiceAccount the permissions that its ClusterRole lists."
	}
	return text + " The operator tries again; nothing needs to be done unless this stays."
}

// connection is the operator's end of a connection, which is another one each time.
var connection = regexp.MustCompile(`[0-9A-Fa-f.:\[\]]+:[0-9]+->`)

func sentence(err error) string {
	text := strings.Join(strings.Fields(connection.ReplaceAllString(err.Error(), "")), " ")
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return "The API server gave no reason."
	}
	text = string(unicode.ToUpper(first)) + text[size:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
