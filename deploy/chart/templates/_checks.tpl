{{/* What a schema cannot say: values that contradict each other end the rendering with one sentence. */}}

{{- define "longrope.checks" -}}
{{- $ranks := mul .Values.pipeline.tensor .Values.pipeline.stages -}}
{{- if and (gt (int .Values.resources.gpus) 0) (ne (int $ranks) (int (mul .Values.resources.gpus .Values.pipeline.nodes))) -}}
{{- fail (printf "Expected resources.gpus x pipeline.nodes to be tensor x stages = %d GPUs, found %d x %d: take all of them from longrope plan --helm-values." (int $ranks) (int .Values.resources.gpus) (int .Values.pipeline.nodes)) -}}
{{- end -}}
{{- if le (int .Values.gracePeriod) (int (add .Values.preStopSeconds .Values.shutdownTimeout)) -}}
{{- fail (printf "Expected gracePeriod above preStopSeconds + shutdownTimeout = %d, found %d: a drain would be cut off." (int (add .Values.preStopSeconds .Values.shutdownTimeout)) (int .Values.gracePeriod)) -}}
{{- end -}}
{{- $startup := mul .Values.probes.startup.periodSeconds .Values.probes.startup.failureThreshold -}}
{{- $patient := add .Values.gracePeriod $startup -}}
{{- if le (int .Values.progressDeadlineSeconds) (int $patient) -}}
{{- fail (printf "Expected progressDeadlineSeconds above gracePeriod and the startup probe = %d, found %d: a server that is replaced drains before its successor starts." (int $patient) (int .Values.progressDeadlineSeconds)) -}}
{{- end -}}
{{- if lt (int (index .Values.env "VLLM_ENGINE_READY_TIMEOUT_S")) (int $startup) -}}
{{- fail (printf "Expected VLLM_ENGINE_READY_TIMEOUT_S of at least the %d s of the startup probe, found %v." (int $startup) (index .Values.env "VLLM_ENGINE_READY_TIMEOUT_S")) -}}
{{- end -}}
{{- range $place, $word := .Values.args -}}
{{- if and $.Values.factors.configMap (regexMatch "^--(tiers|factors|preset)(=|$)" $word) -}}
{{- fail (printf "Expected either factors.configMap or %s in args, found both: plan with --factors, and leave that out of args." $word) -}}
{{- end -}}
{{- if and (eq $word "--shutdown-timeout") (ne (index $.Values.args (add1 $place) | int) (int $.Values.shutdownTimeout)) -}}
{{- fail (printf "Expected shutdownTimeout as in args, %s, found %d." (index $.Values.args (add1 $place)) (int $.Values.shutdownTimeout)) -}}
{{- end -}}
{{- end -}}
{{- if and (not (include "longrope.isPath" .)) (not .Values.revision) -}}
{{- fail (printf "Expected revision, the commit of %s on the hub, found none: what is served should not change by itself." .Values.model) -}}
{{- end -}}
{{- if and (include "longrope.isPath" .) (not .Values.modelVolume) -}}
{{- fail (printf "Expected modelVolume, the volume that holds %s, found none." .Values.model) -}}
{{- end -}}
{{- if and .Values.files.enabled (or (gt (int .Values.replicas) 1) .Values.autoscaling.enabled) -}}
{{- fail "Expected files.enabled=false with several replicas, found true: a document lies on the server that took it, and another one would not find it." -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (eq .Values.metrics "key") (not .Values.serviceMonitor.keySecret.name) -}}
{{- fail "Expected serviceMonitor.keySecret, the key by which Prometheus reads /metrics, found none: name it, or set metrics=open." -}}
{{- end -}}
{{- if and .Values.nginx.enabled (ne .Values.nginx.serviceType "ClusterIP") .Values.networkPolicy.enabled (eq (toJson .Values.networkPolicy.clients) `[{"podSelector":{}}]`) -}}
{{- fail (printf "Expected networkPolicy.clients for nginx.serviceType=%s, found the pods of the namespace only: nobody from outside would be let in." .Values.nginx.serviceType) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.prometheus) -}}
{{- fail "Expected autoscaling.prometheus, the address that KEDA asks, found none." -}}
{{- end -}}
{{- if and (not .Values.keys.secret) (not .Values.allowWithoutKeys) -}}
{{- fail "Expected keys.secret, the Secret with the file of API keys, found none: make it by longrope keys add, or set allowWithoutKeys=true." -}}
{{- end -}}
{{- end -}}
