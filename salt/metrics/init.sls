{%- set gateway = salt['gateway.settings']() %}
# Figures for the operator's own Prometheus (docs/metrics.md). Off, unless the site says `features: {metrics: true}`.
metrics-packages:
  pkg.installed:
    - pkgs: {{ gateway.packages.metrics | tojson }}
    - install_recommends: False

/etc/gateway-metrics.json:
  file.managed:
    - contents: {{ salt['gateway_metrics.settings_json'](gateway) | json }}
    # It names the persons' tunnels.
    - mode: '0600'
    - show_changes: False

/etc/systemd/system/gateway-metrics.service:
  file.managed:
    - source: salt://metrics/files/gateway-metrics.service
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
      - file: /etc/systemd/system/gateway-metrics.service

# It reads its settings again each time.
gateway-metrics:
  service.running:
    - enable: True
    - require:
      - pkg: metrics-packages
      - file: /etc/gateway-metrics.json
    - watch:
      - file: /etc/systemd/system/gateway-metrics.service

prometheus-node-exporter:
  service.running:
    - enable: True
    - require:
      - pkg: metrics-packages

# Record what this formula manages, for the drift beacon.
metrics-recorded:
  drift.recorded:
    - name: metrics
