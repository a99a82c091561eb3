# This site wants no figures (any more). The exporter stays: it may serve other files.
metrics_off:
  service.dead:
    - name: gateway-metrics
    - enable: False

metrics_files_off:
  file.absent:
    - names:
      - /etc/gateway-metrics.json
      - /etc/systemd/system/gateway-metrics.service
      - /var/lib/prometheus/node-exporter/gateway.prom
    - require:
      - service: metrics_off
