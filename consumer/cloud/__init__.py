"""The two services: MNS and MPS. The only package that imports a vendor's SDK."""
