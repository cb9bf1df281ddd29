"""The methods, one per file: the folder is the registry."""
