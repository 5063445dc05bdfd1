{{- define "milliner.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "milliner.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "milliner.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What a name is cut to where a suffix follows: DNS labels have 63 characters, the longest suffix here 24. */}}
{{- define "milliner.prefix" -}}
{{- include "milliner.fullname" . | trunc 39 | trimSuffix "-" -}}
{{- end -}}

{{- define "milliner.selectorLabels" -}}
app.kubernetes.io/name: {{ printf "%s-operator" (include "milliner.name" . | trunc 54 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Of the pod of `helm test`, which is no operator. */}}
{{- define "milliner.testLabels" -}}
app.kubernetes.io/name: {{ printf "%s-test" (include "milliner.name" . | trunc 58 | trimSuffix "-") }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "milliner.labels" -}}
{{ include "milliner.selectorLabels" . }}
app.kubernetes.io/part-of: milliner
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "milliner.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "milliner.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Call with (dict "image" .Values.image "root" .): repository@digest, or repository:tag. */}}
{{- define "milliner.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces that the operator watches, as JSON; an empty list: all. */}}
{{- define "milliner.watchNamespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- .Values.watchNamespaces | uniq | toJson -}}
{{- else if .Values.rbac.namespaced -}}
{{- list .Release.Namespace | toJson -}}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* How the operator knows its own claims. */}}
{{- define "milliner.installation" -}}
{{- printf "%s/%s" .Release.Namespace (include "milliner.fullname" .) -}}
{{- end -}}

{{- define "milliner.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets }}{{- $names = append $names .name -}}{{- end -}}
{{- join "," $names -}}
{{- end -}}
