"""The backends of attnc, one file a target."""
