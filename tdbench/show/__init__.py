"""What each method drops, as a picture."""
