"""What machines print of themselves, read into a machine: NCCL's topology, nvidia-smi, rocm-smi, bandwidth matrices."""
