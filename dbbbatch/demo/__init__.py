"""Two sites in a directory, to look at: what `dbb demo` builds and runs."""
