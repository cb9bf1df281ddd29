"""The methods, a folder each: the folder is the registry."""
