// Package v1alpha1 holds the ServiceSecurityProfile API, group servicesecurity.dev: its types, validation, condition
// types and reasons, and constants. It has no behaviour.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +kubebuilder:ac:output:package=../applyconfiguration
// +groupName=servicesecurity.dev
package v1alpha1
