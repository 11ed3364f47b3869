"""The mirror of upstream's `models/`: same classes, signatures, names of parameters, results and random draws."""
