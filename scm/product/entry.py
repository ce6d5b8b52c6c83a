"""MLflow runs this file to load a packaged model ("models from code"), so that nothing is unpickled."""

from mlflow.models import set_model

from scm.product.model import ImageModel

set_model(ImageModel())
