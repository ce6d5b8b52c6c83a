"""A trained model as a product: packaged for MLflow's registry, described by a card, served with a page."""
