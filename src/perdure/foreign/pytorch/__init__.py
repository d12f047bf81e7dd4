"""What PyTorch writes: archives of torch.save of all times, TorchScript, exported programs, folders of several files."""
