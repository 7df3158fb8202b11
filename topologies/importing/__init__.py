"""A machine out of dumps: files put together, the GPU told, rates looked up, the smallest topology, its file."""
