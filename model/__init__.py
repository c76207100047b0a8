"""What we know: features, networks, training, artefacts, calibration, reasons."""
