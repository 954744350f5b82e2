"""Pages for a browser: what is known of all sites, as files that need no server and no script."""
