{{- define "staydown.labels" -}}
app.kubernetes.io/name: staydown
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "staydown.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "staydown.security" -}}
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}
{{- define "staydown.env" -}}
- name: STAYDOWN_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.database.secretName }}, key: {{ .Values.database.secretKey }}}}
- {name: STAYDOWN_SHUTDOWN_DRAIN_S, value: {{ .Values.drainSeconds | quote }}}
- {name: STAYDOWN_SHUTDOWN_GRACE_S, value: {{ .Values.graceSeconds | quote }}}
{{- if .Values.withdrawals.existingClaim }}
- {name: STAYDOWN_WITHDRAWALS_FILE, value: /withdrawals/withdrawals.jsonl}
{{- end }}
{{- range $name, $value := .Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- define "staydown.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.withdrawals.existingClaim }}
- {name: withdrawals, mountPath: /withdrawals}
{{- end }}
{{- end }}
{{- define "staydown.volumes" -}}
- name: data
  emptyDir: {sizeLimit: {{ .Values.indexCache.sizeLimit }}}
- name: tmp
  emptyDir: {}
{{- if .Values.withdrawals.existingClaim }}
- name: withdrawals
  persistentVolumeClaim: {claimName: {{ .Values.withdrawals.existingClaim }}}
{{- end }}
{{- end }}
