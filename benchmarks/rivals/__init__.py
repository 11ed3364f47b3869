"""The same mathematics in plain PyTorch, without this library: upstream's code, and FCMAE by dense convolution."""
