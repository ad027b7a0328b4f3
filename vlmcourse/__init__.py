"""vlmcourse: seven video language models, one readable package, a course in notebooks."""

__version__ = "0.1.0"
