"""The command line: a grammar (`main`), one module for each command, and the supervisor of the stack (`stack`)."""
