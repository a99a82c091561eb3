# The IPsec daemon: chapter 4.4 of the paper. It is Libreswan, which continues Openswan.
include:
  - .install
  - .certificates
  - .configuration
  - .service

# Record what this formula manages, for the drift beacon.
openswan-recorded:
  drift.recorded:
    - name: openswan
