"""Where workers run. A unit is a worker, never a trial: `base` is the seam, `fleet` is what the driver holds."""
