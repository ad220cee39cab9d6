{{/* Names, labels and the daemon's configuration: what several templates say alike. */}}

{{- define "mortalgpu.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "mortalgpu.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "mortalgpu.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "mortalgpu.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Of objects outside namespaces: two installations may have one name in two namespaces. */}}
{{- define "mortalgpu.clusterName" -}}
{{- printf "%s.%s" (include "mortalgpu.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "mortalgpu.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "mortalgpu.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "mortalgpu.selector" -}}
app.kubernetes.io/name: {{ include "mortalgpu.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mortalgpu.labels" -}}
{{ include "mortalgpu.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "mortalgpu.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* Where the daemon keeps its files on the host, without a slash at the end. */}}
{{- define "mortalgpu.mgctlPath" -}}
{{- .Values.config.mgctl.hostMount.hostPath | trimSuffix "/" -}}
{{- end -}}
{{- define "mortalgpu.statePath" -}}
{{- default (include "mortalgpu.mgctlPath" .) .Values.config.stateDir | trimSuffix "/" -}}
{{- end -}}

{{/* kubelet's directory of the pod-resources socket. */}}
{{- define "mortalgpu.podResourcesPath" -}}
{{- if .Values.config.kubelet.podResourcesSocket -}}
{{- dir .Values.config.kubelet.podResourcesSocket -}}
{{- else -}}
{{- printf "%s/pod-resources" (dir (trimSuffix "/" .Values.config.kubelet.devicePluginDir)) | replace "//" "/" -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the device API's key; empty when the daemons make their own. */}}
{{- define "mortalgpu.keysSecret" -}}
{{- if .Values.keysSecret.create -}}
{{- printf "%s-keys" (include "mortalgpu.fullname" .) -}}
{{- else -}}
{{- .Values.keysSecret.name -}}
{{- end -}}
{{- end -}}

{{/* Put the Service's port into an address of the configuration: [address, port, default port, key of the port]. */}}
{{- define "mortalgpu.address" -}}
{{- $address := index . 0 -}}{{- $port := index . 1 | int -}}
{{- $given := regexFind "[0-9]+$" $address | int -}}
{{- if and (ne $given $port) (ne $given (index . 2)) -}}
{{- fail (printf "%s: is %d, and the address says port %d; set the port here and leave the address's alone" (index . 3) $port $given) -}}
{{- end -}}
{{- printf "%s:%d" (regexReplaceAll ":[0-9]+$" $address "") $port -}}
{{- end -}}

{{/* Host of an address that is reached only there; empty when it is every address of the pod. */}}
{{- define "mortalgpu.onlyHost" -}}
{{- $host := regexReplaceAll ":[0-9]+$" . "" -}}
{{- if not (has $host (list "" "0.0.0.0" "[::]")) -}}{{- $host | trimPrefix "[" | trimSuffix "]" -}}{{- end -}}
{{- end -}}

{{/* The file the daemon reads: `config`, with the ports of the Service and without any secret. */}}
{{- define "mortalgpu.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $ports := .Values.service.ports -}}
{{- $_ := set $config.deviceApi "address" (include "mortalgpu.address" (list $config.deviceApi.address $ports.grpc 50052 "service.ports.grpc")) -}}
{{- $_ := set $config.exporter "daemonAddress" (include "mortalgpu.address" (list $config.exporter.daemonAddress $ports.mgdpMetrics 2112 "service.ports.mgdpMetrics")) -}}
{{- $_ := set $config.exporter "address" (include "mortalgpu.address" (list $config.exporter.address $ports.exporter 2113 "service.ports.exporter")) -}}
{{- $_ := set $config.exporter "gpus" (and .Values.exporter.enabled $config.exporter.gpus) -}}
{{- $security := $config.grpcSecurity -}}
{{- range $name := list "jwtSecret" "previousJwtSecret" "deviceToken" "containerToken" -}}
{{- $file := printf "%sFile" $name -}}
{{- $text := get $security $name -}}
{{- if and $text (not $.Values.keysSecret.create) -}}
{{- fail (printf "config.grpcSecurity.%s: is set, and keysSecret.create is false, so no Secret can hold it; put it into the Secret that keysSecret.name names" $name) -}}
{{- end -}}
{{- if and $text (get $security $file) -}}
{{- fail (printf "config.grpcSecurity.%s: contradicts grpcSecurity.%s, which is set too; keep one of them" $file $name) -}}
{{- end -}}
{{- $_ := set $security $name "" -}}
{{- end -}}
{{- if include "mortalgpu.keysSecret" . -}}
{{- range $name, $_ := include "mortalgpu.secrets" . | fromYaml -}}
{{- $_ := set $security (printf "%sFile" $name) (printf "/etc/mortalgpu/keys/%s" $name) -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/*
What the Secret holds. The key is what the values say, else what the Secret has, else a new one; a key that is replaced stays
accepted beside its successor, so that the tokens of running containers stay good.
*/}}
{{- define "mortalgpu.secrets" -}}
{{- $secrets := dict -}}
{{- if not .Values.keysSecret.create -}}
{{- if not .Values.config.grpcSecurity.jwtSecretFile -}}{{- $_ := set $secrets "jwtSecret" "" -}}{{- end -}}
{{- else -}}
{{- $security := .Values.config.grpcSecurity -}}
{{- $kept := (lookup "v1" "Secret" .Release.Namespace (include "mortalgpu.keysSecret" .)).data | default dict -}}
{{- $old := get $kept "jwtSecret" | b64dec -}}
{{- if not $security.jwtSecretFile -}}
{{- if not (hasKey .Values "generatedKey") -}}{{- $_ := set .Values "generatedKey" (randAlphaNum 64) -}}{{- end -}}
{{- $key := coalesce $security.jwtSecret $old .Values.generatedKey -}}
{{- $_ := set $secrets "jwtSecret" $key -}}
{{- if and $old (ne $old $key) (not $security.previousJwtSecret) -}}
{{- $_ := set $secrets "previousJwtSecret" $old -}}
{{- else if and (get $kept "previousJwtSecret") (not $security.previousJwtSecret) -}}
{{- $_ := set $secrets "previousJwtSecret" (get $kept "previousJwtSecret" | b64dec) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "previousJwtSecret" "deviceToken" "containerToken" -}}
{{- with get $security $name -}}{{- $_ := set $secrets $name . -}}{{- end -}}
{{- if get $security (printf "%sFile" $name) -}}{{- $_ := unset $secrets $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $secrets -}}
{{- end -}}

{{/* Not empty when the metrics of the GPUs are served. */}}
{{- define "mortalgpu.gpuMetrics" -}}
{{- if and .Values.exporter.enabled .Values.config.exporter.enabled .Values.config.exporter.gpus -}}yes{{- end -}}
{{- end -}}

{{/* Resource names, each once. */}}
{{- define "mortalgpu.resources" -}}
{{- $names := list -}}
{{- range .Values.config.deviceSharing -}}{{- $names = append $names .resourceName -}}{{- end -}}
{{- join "\n" (uniq $names) -}}
{{- end -}}
