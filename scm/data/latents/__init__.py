"""What the networks are trained on: pixels or an autoencoder's latents."""
