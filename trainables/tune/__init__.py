"""The Ray adapters: the only modules of this package that import Ray."""
