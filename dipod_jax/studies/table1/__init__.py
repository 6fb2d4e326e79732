"""Every diffusion-language objective with and without DiPOD on small tasks, and the controls that say what DiPOD is."""
