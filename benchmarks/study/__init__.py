"""Does it help? Methods of training compared on real images: searched alike, seed by seed, with ablations."""
