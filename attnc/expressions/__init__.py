"""Scalar trees: the expressions of every stage."""
