# Opens a ticket, or closes it, by a command of yours on the master. No shell sees it (docs/monitoring.md, "Reactions").
#   gateway_reactions:
#     - when: {severities: [critical], phases: [opened, escalation, recovery]}
#       sls: ticket
#       settings: {command: [/usr/local/bin/ticket, --queue, network]}
# The command gets five more arguments: PHASE KEY SITE SEVERITY SUMMARY. KEY is the same for all events of one condition:
# find the open ticket by it. At its standard input it can read all of the event, as one line of JSON.
ticket_{{ data.event }}:
  runner.reactions.command:
    - args:
        - command: {{ data.settings.command | tojson }}
        - arguments:
            - {{ data.phase | tojson }}
            - {{ data.key | tojson }}
            - {{ data.site | tojson }}
            - {{ data.severity | tojson }}
            # Begins with a bracket, so that no text of an event is taken for an option.
            - "[{{ data.severity }}] {{ data.site }}: {{ data.happened }}"
        - given: {{ {"event": data.event, "key": data.key, "phase": data.phase, "id": data.id, "site": data.site,
                     "node": data.node, "beacon": data.beacon, "condition": data.condition, "severity": data.severity,
                     "since": data.since, "at": data.at, "subject": data.subject, "was": data.was, "now": data.now,
                     "cause": data.cause, "happened": data.happened, "means": data.means, "todo": data.todo} | tojson }}
