"""Other people's mathematics in plain PyTorch, which need nothing of ours: upstream's code, and masked dense FCMAE."""
