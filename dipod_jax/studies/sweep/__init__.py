"""A sweep: tasks x objectives x options x betas as a plan of units, each an ordinary run, trained by any launcher."""
