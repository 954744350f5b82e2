"""The storage area: storing files, removing duplicates, and whether it is all there."""
