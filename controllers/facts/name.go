package facts

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// defaultName is what Istio's documentation calls the one PeerAuthentication of a namespace or of the mesh.
const defaultName = "default"

// PeerName is the name of the profile's PeerAuthentication.
func PeerName(profile *v1alpha1.ServiceSecurityProfile) string {
	switch profile.Spec.Target.Kind {
	case v1alpha1.TargetNamespace, v1alpha1.TargetMesh:
		return defaultName
	case v1alpha1.TargetService, v1alpha1.TargetWorkload, v1alpha1.TargetGateway:
	}
	return profile.Name
}

// MemberName is the name of the PeerAuthentication that the profile of a whole namespace has for one of its workloads. The
// hash keeps it apart from what other profiles call theirs.
func MemberName(profile, workload string) string {
	sum := sha256.Sum256([]byte(profile + "/" + workload))
	stem := profile + "-" + strings.ReplaceAll(workload, "+", "-")
	return strings.TrimRight(stem[:min(len(stem), maxStem)], "-.") + "-" + hex.EncodeToString(sum[:4])
}

// maxStem leaves room for the hash in the name of an object.
const maxStem = 240

// RuleName is the name of the profile's DestinationRule for a Service: a Service profile has one rule, of its own name;
// a Workload profile has one for each Service; and that of a whole namespace or the mesh has one of its own name for all,
// for which service is empty, and one for each exempt host, for which service is its name.
func RuleName(profile string, kind v1alpha1.TargetKind, service string) string {
	if kind == v1alpha1.TargetService || service == "" {
		return profile
	}
	return profile + "-" + service
}

// TokensName is the name of the profile's RequestAuthentication.
func TokensName(profile string) string { return profile }

// AllowName is the name of the profile's AuthorizationPolicy that lets callers in, DenyName of the one that refuses some,
// and TokenName of the one that refuses requests without a token.
func AllowName(profile string) string { return profile }

// DenyName is explained at AllowName.
func DenyName(profile string) string { return profile + "-deny" }

// TokenName is explained at AllowName.
func TokenName(profile string) string { return profile + "-token" }
