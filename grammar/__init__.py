"""The grammar and the standard library of the language (data files)."""
