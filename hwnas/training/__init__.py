"""Data sets, augmentation, recipes, the trainer."""

from ..device import available_devices, resolve_device
from .data import ImageData, default_resolution, load_images
from .recipe import Recipe
from .sources import DATASETS
from .trainer import EpochRecord, TrainingFailed, TrainingTime, TrainResult, evaluate, time_training, train

__all__ = [
    "DATASETS",
    "EpochRecord",
    "ImageData",
    "Recipe",
    "TrainResult",
    "TrainingFailed",
    "TrainingTime",
    "available_devices",
    "default_resolution",
    "evaluate",
    "load_images",
    "resolve_device",
    "time_training",
    "train",
]
