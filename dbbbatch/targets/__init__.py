"""Plugins that offer stored files to data management systems."""
