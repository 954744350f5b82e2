"""Data Backbone buffer managers: short-lived scripts that cron starts."""

__version__ = "1.0.0"
