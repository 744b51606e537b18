"""The checker: from the syntax tree to the Spec."""

from attnc.check.check import check_spec

__all__ = ["check_spec"]
