"""What each script does between taking its lock and its exit code."""
