# Applies an orchestration of yours (docs/monitoring.md, "Reactions").
#   gateway_reactions:
#     - when: {conditions: [node_silent], phases: [recovery], sites: [winterthur]}
#       sls: orchestrate
#       settings: {orchestration: orch.mine}
#       timeout: 1800
# It gets the site in pillar, as the orchestrations of this tree do, and what happened. None of the texts that a node
# writes itself: an orchestration is rendered with its pillar, so a text in it could become code.
orchestrate_{{ data.event }}:
  runner.state.orchestrate:
    - args:
        - mods: {{ data.settings.orchestration | tojson }}
        - pillar: {{ {"site": data.site, "event": {
                        "event": data.event, "key": data.key, "phase": data.phase, "id": data.id, "node": data.node,
                        "role": data.role, "beacon": data.beacon, "condition": data.condition,
                        "severity": data.severity, "since": data.since, "at": data.at}
                  } | tojson }}
