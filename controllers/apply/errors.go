package apply

import (
	"fmt"
	"strings"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

// ForeignObjectError says that an object of a needed name is not the profile's.
type ForeignObjectError struct {
	Kind, Namespace, Name string
	// Profile that needs the name.
	Profile string
	// Owner that controls the object, "kind/name"; empty if nobody does.
	Owner string
	// Fields that keep an adoptable object from being adopted.
	Fields []string
}

// Error names the object and the remedy.
func (e *ForeignObjectError) Error() string {
	switch {
	case len(e.Fields) > 0:
		return fmt.Sprintf("%s %s/%s cannot be adopted, because a profile cannot say these of its fields: %s. Move them to an object of another name, or rename the profile.", e.Kind, e.Namespace, e.Name, strings.Join(e.Fields, ", "))
	case e.Owner != "":
		return fmt.Sprintf("%s %s/%s is controlled by %s, so it is left alone. Rename the profile, or that object.", e.Kind, e.Namespace, e.Name, e.Owner)
	}
	return fmt.Sprintf("%s %s/%s was not made by this profile, so it is left alone. Delete it, rename the profile, or let the profile take it over with the annotation %s: %s on it.", e.Kind, e.Namespace, e.Name, v1alpha1.AnnotationAdopt, e.Profile)
}

// UnsupportedError says that the installed Istio does not know what an object must say.
type UnsupportedError struct {
	Kind, Name string
	Err        error
}

// Error names the object, the API server's words and the remedy.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("the installed Istio does not know a field that %s %s needs, and would drop it: %v. Upgrade Istio's CRDs, or leave out what needs the field.", e.Kind, e.Name, e.Err)
}

// Unwrap gives the API server's error.
func (e *UnsupportedError) Unwrap() error { return e.Err }

// NotInstalledError says that the API server does not know a kind.
type NotInstalledError struct {
	Kind string
}

// Error names the kind and the remedy.
func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("the API server does not know the kind %s. Install Istio's CRDs; the profile is programmed as soon as they are there.", e.Kind)
}
