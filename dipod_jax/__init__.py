"""Flow-matching and diffusion policies trained by policy gradients on a bound that stays tight."""
