{{/* Names, labels and the image. */}}

{{- define "longrope.name" -}}
{{- if contains "longrope" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "longrope.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .component | default "server" }}
{{- end -}}

{{- define "longrope.labels" -}}
{{ include "longrope.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "longrope.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "longrope.isMultiNode" -}}
{{- if gt (int .Values.pipeline.nodes) 1 }}yes{{ end -}}
{{- end -}}

{{- define "longrope.isPath" -}}
{{- if hasPrefix "/" .Values.model }}yes{{ end -}}
{{- end -}}
