# The two nodes as one: chapter 4.6 of the paper. What is reloaded when, and what waits for a person, is in
# docs/heartbeat.md.
include:
  - .install
  - .resource
  - .configuration
  - .service
