"""Dumps of machines, read: NCCL topologies, nvidia-smi, rocm-smi, matrices of bandwidths."""
