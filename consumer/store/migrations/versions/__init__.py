"""One module for each revision, in order; see the package above."""
