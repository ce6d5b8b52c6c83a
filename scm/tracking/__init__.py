"""Runs, files and models in MLflow: the one home of mlflow."""
