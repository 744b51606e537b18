"""From what the backends print to one Python module: the operator as a user ships it."""
