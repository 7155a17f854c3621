"""askd: attention similarity knowledge distillation for low-resolution face recognition."""

__version__ = "0.1.0"
