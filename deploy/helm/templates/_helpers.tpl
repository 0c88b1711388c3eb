{{/* Names and labels. */}}
{{- define "bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters, so that the suffixes of pods, Services and revisions still fit into 63. */}}
{{- define "bridge.fullname" -}}
{{- $name := include "bridge.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: {{ include "bridge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bridge.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "bridge.selector" . }}
app.kubernetes.io/component: bridge
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "bridge.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "bridge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "bridge.kind" -}}
{{- ternary "Deployment" "StatefulSet" .Values.engine.enabled }}
{{- end }}

{{- define "bridge.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "bridge.port" -}}
{{- .Values.config.port | default 8080 | int }}
{{- end }}

{{- define "bridge.adminPort" -}}
{{- .Values.config.admin_port | default (add1 (include "bridge.port" . | int)) | int }}
{{- end }}

{{- define "bridge.scheme" -}}
{{- ternary "HTTPS" "HTTP" (not (empty .Values.config.tls_certificate_file)) }}
{{- end }}

{{/* The Secret that has to exist; empty if the chart creates one. */}}
{{- define "bridge.existingSecret" -}}
{{- if .Values.existingSecret }}
{{- .Values.existingSecret }}
{{- else if not .Values.secretEnv }}
{{- include "bridge.fullname" . }}
{{- end }}
{{- end }}

{{- define "bridge.tokenSecret" -}}
{{- .Values.metrics.serviceMonitor.tokenSecret.name | default (printf "%s-prometheus" (include "bridge.fullname" .)) }}
{{- end }}

{{/* Without token secrets neither clients nor operators could be authenticated: the Secret must be there before the pod starts. */}}
{{- define "bridge.needsSecret" -}}
{{- $config := .Values.config }}
{{- $asks := or (eq (toString $config.auth) "token") (and (eq (toString $config.auth) "upstream-key") (eq (toString $config.admin_host) "0.0.0.0")) }}
{{- if and $asks (not $config.token_jwks_url) (not $config.token_secrets) }}true{{ end }}
{{- end }}

{{/* Values arrive as floats: 16777216 would be written as 1.6777216e+07. Changes the dictionary in place. */}}
{{- define "bridge.whole" -}}
{{- $settings := . }}
{{- range $name, $value := . }}
{{- if kindIs "map" $value }}
{{- include "bridge.whole" $value }}
{{- else if and (kindIs "float64" $value) (eq (floor $value) $value) }}
{{- $_ := set $settings $name (int64 $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* bridge.toml */}}
{{- define "bridge.toml" -}}
{{- $config := deepCopy .Values.config }}
{{- /* What a bridge records is in the engine; with both settings it would not start. */}}
{{- if .Values.engine.enabled }}{{ $_ := unset $config "journal" }}{{ end }}
{{- if not (hasKey $config "allowed_hosts") }}
{{- $hosts := list }}
{{- $any := false }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}{{ if .host }}{{ $hosts = append $hosts .host }}{{ else }}{{ $any = true }}{{ end }}{{ end }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- if .Values.httpRoute.hostnames }}{{ $hosts = concat $hosts .Values.httpRoute.hostnames }}{{ else }}{{ $any = true }}{{ end }}
{{- end }}
{{- $hosts = concat $hosts (list (printf "*.%s" .Release.Namespace) "*.svc" "*.svc.cluster.local") }}
{{- /* An ingress for any name: so does the bridge, which asks for a token on every route. */}}
{{- if not $any }}{{ $_ := set $config "allowed_hosts" ($hosts | uniq) }}{{ end }}
{{- end }}
{{- include "bridge.whole" $config }}
{{- toToml $config }}
{{- end }}

{{/* preStop, the longest submit, the drain, and ten seconds: as `taskbridge check-config` prints it, plus preStop. */}}
{{- define "bridge.graceSeconds" -}}
{{- if .Values.terminationGracePeriodSeconds }}
{{- .Values.terminationGracePeriodSeconds | int }}
{{- else }}
{{- /* 60 also for upstreams that only the Secret names */}}
{{- $longest := 60.0 }}
{{- range $name, $upstream := .Values.config.upstreams }}
{{- if and (kindIs "map" $upstream) (hasKey $upstream "submit_timeout_seconds") }}
{{- $longest = maxf $longest (float64 $upstream.submit_timeout_seconds) }}
{{- end }}
{{- end }}
{{- $drain := 20.0 }}
{{- if hasKey .Values.config "drain_seconds" }}{{ $drain = float64 .Values.config.drain_seconds }}{{ end }}
{{- addf .Values.preStopSeconds (ceil $longest) (ceil $drain) 10 | int }}
{{- end }}
{{- end }}

{{/* What no schema can say. */}}
{{- define "bridge.check" -}}
{{- $engine := default "embedded" .Values.config.engine }}
{{- if not .Values.engine.enabled }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount is %d, but without a shared engine only one pod works: each would poll the same tasks for itself, and callbacks would reach one of them only. Set engine.enabled, and the URL of a Valkey or Redis in engine.secret.name; or config.workers, for more cores of one machine." (int .Values.replicaCount)) }}
{{- end }}
{{- if .Values.autoscaling.enabled }}
{{- fail "autoscaling.enabled needs engine.enabled: pods without a shared engine know nothing of each other." }}
{{- end }}
{{- if ne $engine "embedded" }}
{{- fail "config.engine needs engine.enabled: then the pods are a Deployment without a volume." }}
{{- end }}
{{- else }}
{{- if and .Values.engine.secret.name (ne $engine "embedded") }}
{{- fail "config.engine and engine.secret.name are both set: the URL of the engine is one of them." }}
{{- end }}
{{- if not (or .Values.engine.secret.name (ne $engine "embedded") (hasKey .Values.secretEnv "BRIDGE_ENGINE")) }}
{{- fail "engine.enabled needs the URL of the engine: the Secret with it in engine.secret.name, or config.engine." }}
{{- end }}
{{- if and .Values.autoscaling.enabled (not .Values.autoscaling.targetCPUUtilizationPercentage) (not .Values.autoscaling.targetConnections) }}
{{- fail "autoscaling.enabled needs something to scale by: autoscaling.targetCPUUtilizationPercentage or autoscaling.targetConnections." }}
{{- end }}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) }}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas." }}
{{- end }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.enabled needs httpRoute.parentRefs: the Gateway it belongs to." }}
{{- end }}
{{- end }}
