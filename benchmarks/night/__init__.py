"""A simulated night: two sites, an archiver, and somebody who breaks whatever can break."""
