"""Plugins: code that ingests stored files into a kind of target."""
