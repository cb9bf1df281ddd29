"""What a run and a sweep leave on disk: their folders, the rows of their tables, and how files are written."""
