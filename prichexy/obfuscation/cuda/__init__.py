"""What NVIDIA GPUs need beside the network: fixed batches, captured work, copies that overlap it."""
