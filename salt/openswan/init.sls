# The IPsec daemon: chapter 4.4 of the paper. It is Libreswan, which carries on where Openswan ended.
include:
  - .install
  - .certificates
  - .configuration
  - .service

# What it manages is written down, for the drift beacon.
openswan-recorded:
  drift.recorded:
    - name: openswan
