"""Clusters as directed graphs of GPUs, switches, host bridges and NICs, each number with its source.

`load.load_cluster("8xl40s-pcie")` or a TOML file's path gives a `cluster.Cluster`; `generators` holds one
function per kind of topology; `gpus/*.toml` and `machines/*.toml` are the catalog.
"""
