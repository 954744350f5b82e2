"""The configuration: keys, sections, and one TOML file that is read into them."""
