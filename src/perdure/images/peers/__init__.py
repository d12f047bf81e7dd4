"""What other libraries call preprocessing, read and written: torchvision, timm, transformers. None of them is imported."""
