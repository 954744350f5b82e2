"""Data Backbone buffer managers: short-lived scripts that cron starts."""

__version__ = "0.1.0"
