"""attnc: a compiler for attention operators."""
