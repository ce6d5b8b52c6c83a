"""One thread for each test process: small networks gain nothing from more, and processes side by side lose."""

import torch

torch.set_num_threads(1)
