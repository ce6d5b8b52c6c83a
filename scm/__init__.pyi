from scm.generation.loaded import Images as Images
from scm.generation.loaded import LoadedModel as LoadedModel
from scm.product.loading import load as load

__version__: str
