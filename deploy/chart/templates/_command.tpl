{{/* The command line of `longrope serve`, and its environment. */}}

{{- define "longrope.args" -}}
- {{ .Values.model | quote }}
{{- if .Values.revision }}
- --revision={{ .Values.revision }}
{{- end }}
{{- with .Values.servedNames }}
- --served-model-name
{{- range . }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.factors.configMap }}
- --factors=/etc/longrope/factors/{{ .Values.factors.key }}
{{- end }}
{{- range .Values.args }}
- {{ . | quote }}
{{- end }}
{{- if include "longrope.isMultiNode" . }}
- --nnodes={{ .Values.pipeline.nodes }}
- --node-rank=$(LWS_WORKER_INDEX)
- --master-addr=$(LWS_LEADER_ADDRESS)
{{- end }}
{{- if eq .role "worker" }}
- --headless
- --no-files
{{- else }}
- --host=0.0.0.0
- --port={{ .Values.service.port }}
{{- with index .Values.env "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS" }}
- --progress-limit={{ . }}
{{- end }}
{{- if .Values.keys.secret }}
- --keys=/etc/longrope/keys/{{ .Values.keys.key }}
- --metrics={{ .Values.metrics }}
{{- end }}
{{- if .Values.files.enabled }}
- --files=/files
- --files-quota={{ .Values.files.quota }}
{{- else }}
- --no-files
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "longrope.env" -}}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
- name: HOME
  value: /cache
- name: VLLM_CACHE_ROOT
  value: /cache/vllm
- name: TRITON_CACHE_DIR
  value: /cache/triton
- name: TORCHINDUCTOR_CACHE_DIR
  value: /cache/inductor
- name: HF_HOME
  value: /weights
- name: VLLM_NO_USAGE_STATS
  value: "1"
{{- if include "longrope.isPath" . }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- if .Values.tokenSecret.name }}
- name: HF_TOKEN_PATH
  value: /etc/longrope/hub/{{ .Values.tokenSecret.key }}
{{- end }}
{{- if include "longrope.isMultiNode" . }}
- name: VLLM_HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- range .Values.extraEnv }}
- {{ toYaml . | nindent 2 | trim }}
{{- end }}
{{- end -}}
