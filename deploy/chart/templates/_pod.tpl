{{/* The pod of a server: the same for a Deployment and for both kinds of pods of a LeaderWorkerSet (`role`). */}}

{{- define "longrope.pod" -}}
{{- $labels := dict "Chart" .Chart "Release" .Release "Values" .Values "component" .role -}}
metadata:
  labels:
    {{- include "longrope.labels" $labels | nindent 4 }}
    longrope/group: {{ .Release.Name }}
  annotations:
    kubectl.kubernetes.io/default-container: longrope
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Always
  terminationGracePeriodSeconds: {{ .Values.gracePeriod }}
  serviceAccountName: {{ include "longrope.name" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  hostNetwork: false
  hostIPC: false
  hostPID: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 2000
    runAsGroup: 0
    fsGroup: 0
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: longrope
      image: {{ include "longrope.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: ["longrope", "serve"]
      args:
        {{- include "longrope.args" . | nindent 8 }}
      env:
        {{- include "longrope.env" . | trim | nindent 8 }}
      {{- if eq .role "server" }}
      ports:
        - name: http
          containerPort: {{ .Values.service.port }}
      startupProbe:
        httpGet: {path: {{ .Values.probePaths.startup }}, port: http}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: {{ .Values.probePaths.liveness }}, port: http}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: {{ .Values.probePaths.readiness }}, port: http}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .Values.preStopSeconds }}
      {{- else }}
      lifecycle:
        preStop:
          exec:
            # A worker stays while its leader takes connections: until it has drained, or not at all when it is gone.
            command:
              - python3
              - -c
              - |-
                import os, socket, time

                leader = (os.environ["LWS_LEADER_ADDRESS"], {{ .Values.service.port }})
                end = time.monotonic() + {{ add .Values.preStopSeconds .Values.shutdownTimeout }}
                refused = 0
                while refused < 3 and time.monotonic() < end:
                    try:
                        socket.create_connection(leader, 5).close()
                        refused = 0
                    except OSError:
                        refused += 1
                    time.sleep(1)
      {{- end }}
      resources:
        requests:
          cpu: {{ .Values.cpus | quote }}
          memory: {{ .Values.resources.memory }}
          {{- if .Values.resources.gpus }}
          {{ .Values.gpuResource }}: {{ .Values.resources.gpus }}
          {{- end }}
          {{- with .Values.networkResource }}
          {{ . }}: 1
          {{- end }}
        limits:
          memory: {{ .Values.resources.memory }}
          {{- if .Values.resources.gpus }}
          {{ .Values.gpuResource }}: {{ .Values.resources.gpus }}
          {{- end }}
          {{- with .Values.networkResource }}
          {{ . }}: 1
          {{- end }}
      securityContext:
        allowPrivilegeEscalation: false
        privileged: false
        readOnlyRootFilesystem: {{ .Values.readOnlyRootFilesystem }}
        capabilities:
          drop: [ALL]
      volumeMounts:
        - {name: shm, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
        - {name: cache, mountPath: /cache}
        - {name: weights, mountPath: /weights}
        {{- if .Values.modelVolume }}
        - {name: models, mountPath: {{ .Values.modelMountPath }}, readOnly: true}
        {{- end }}
        {{- if .Values.tokenSecret.name }}
        - {name: hub, mountPath: /etc/longrope/hub, readOnly: true}
        {{- end }}
        {{- if .Values.factors.configMap }}
        - {name: factors, mountPath: /etc/longrope/factors, readOnly: true}
        {{- end }}
        {{- if eq .role "server" }}
        {{- if .Values.keys.secret }}
        - {name: keys, mountPath: /etc/longrope/keys, readOnly: true}
        {{- end }}
        {{- if .Values.files.enabled }}
        - {name: files, mountPath: /files}
        {{- end }}
        {{- end }}
  volumes:
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ .Values.resources.shm }}}
    - name: tmp
      emptyDir: {sizeLimit: {{ .Values.tmp.size }}}
    - name: cache
      emptyDir: {sizeLimit: {{ .Values.cache.size }}}
    - name: weights
      {{- if .Values.weights.claim }}
      persistentVolumeClaim: {claimName: {{ .Values.weights.claim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ .Values.weights.size }}}
      {{- end }}
    {{- with .Values.modelVolume }}
    - name: models
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.tokenSecret.name }}
    - name: hub
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- with .Values.factors.configMap }}
    - name: factors
      configMap: {name: {{ . }}}
    {{- end }}
    {{- if eq .role "server" }}
    {{- with .Values.keys.secret }}
    - name: keys
      secret: {secretName: {{ . }}, defaultMode: 0440}
    {{- end }}
    {{- if .Values.files.enabled }}
    - name: files
      {{- if .Values.files.claim }}
      persistentVolumeClaim: {claimName: {{ .Values.files.claim }}}
      {{- else }}
      emptyDir: {sizeLimit: {{ .Values.files.size }}}
      {{- end }}
    {{- end }}
    {{- end }}
{{- end -}}
