"""The skeletons that printed algebra is set into (data files)."""
