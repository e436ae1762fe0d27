{{- define "gvList" -}}
# API reference

Generated from `api/v1alpha1` by `make docs`. In a cluster, `kubectl explain ssp.spec` says the same.
{{- range . }}
{{ template "gvDetails" . }}
{{- end }}
{{ end -}}

{{- define "gvDetails" -}}
{{- $gv := . }}
## {{ $gv.GroupVersionString }}

{{ $gv.Doc }}

{{- range $gv.SortedKinds }}
{{ template "type" ($gv.TypeForKind .) }}
{{- end }}

{{- range $gv.SortedTypes }}
{{- if not .GVK }}
{{- template "type" . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "type" -}}
{{- $type := . }}
{{- if markdownShouldRenderType $type }}

### {{ $type.Name }}
{{- if $type.IsAlias }}

A {{ markdownRenderTypeLink $type.UnderlyingType }}.
{{- end }}

{{ $type.Doc }}
{{- if $type.References }}

Part of {{ range $i, $reference := $type.SortedReferences }}{{ if $i }}, {{ end }}{{ markdownRenderTypeLink $reference }}{{ end }}.
{{- end }}
{{- if and $type.Validation (not $type.EnumValues) }}
{{ range $type.Validation }}
- {{ . }}
{{- end }}
{{- end }}
{{- if $type.Members }}

| Field | Description | Default | Validation |
| --- | --- | --- | --- |
{{- if $type.GVK }}
| `apiVersion` _string_ | `{{ $type.GVK.Group }}/{{ $type.GVK.Version }}` | | |
| `kind` _string_ | `{{ $type.GVK.Kind }}` | | |
{{- end }}
{{- range $type.Members }}
| `{{ .Name }}` _{{ markdownRenderType .Type }}_ | {{ if eq .Name "metadata" }}Name, namespace, labels and annotations.{{ else }}{{ markdownRenderFieldDoc .Doc }}{{ end }} | {{ markdownRenderDefault .Default }} | {{ range $i, $rule := .Validation }}{{ if $i }}<br />{{ end }}{{ markdownRenderFieldDoc $rule }}{{ end }} |
{{- end }}
{{- end }}
{{- if $type.EnumValues }}

| Value | Description |
| --- | --- |
{{- range $type.EnumValues }}
| `{{ .Name }}` | {{ markdownRenderFieldDoc .Doc }} |
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
