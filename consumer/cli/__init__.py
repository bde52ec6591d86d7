"""The command line: one file a command."""

import gc

# What is imported stays. To look for garbage among it meanwhile takes a twentieth of a start.
gc.set_threshold(50_000, *gc.get_threshold()[1:])
