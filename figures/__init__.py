"""The master's figures for Prometheus: what both engines say of themselves, as a textfile. docs/metrics.md.

    status files of the engines --> master.py (the table, and what is read) --> textfile.py --> node_exporter

A gateway's figures are made on the gateway, by the modules gateway_figures and gateway_metrics.
"""
