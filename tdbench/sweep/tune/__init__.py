"""`tune`: a search for settings on held-out images, and its confirmation on the test images by an ordinary sweep."""
