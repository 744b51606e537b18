"""What runs a compiled operator."""
