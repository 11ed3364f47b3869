"""The same mathematics in plain PyTorch, without this library: upstream's code, and FCMAE by masked dense convolution."""
