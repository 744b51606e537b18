"""Timing operators against PyTorch's attention in one run (attnc bench)."""
