"""One thread for each test process: small networks gain nothing from more, and several processes then do not disturb."""

import torch

torch.set_num_threads(1)
