"""Arguments and output only: what cron and people type, and what they see."""
