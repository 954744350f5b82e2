"""What is safe to do in each kind of place where files lie."""
