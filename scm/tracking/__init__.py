"""Runs, files and models in MLflow; only this room and scm.product import mlflow."""
