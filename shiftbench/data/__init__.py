"""Where patients come from: phantoms, and folders of real scans described by a TOML file."""
