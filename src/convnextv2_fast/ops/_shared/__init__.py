"""What all ops share: argument checks, groups of rows, sites, packed weights, and what each backend can run."""
