"""Many runs as one experiment: what is run, how, and what it shows."""
