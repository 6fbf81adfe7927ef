"""The memory that a run will need, predicted from shapes before anything is loaded.

shapes.py       a model without its weights, and the settings that memory depends on
activations.py  what forward and backward keep, counted on fake tensors
head.py         what the loss needs
prediction.py   part by part, phase by phase, and the peak
fit.py          whether that fits the machine, and the cheapest setting with which it would
"""

from exprl.learn.memory.prediction import Prediction, optimizer_bytes, predict
from exprl.learn.memory.shapes import GIB, Setup, Shapes

__all__ = ["GIB", "Prediction", "Setup", "Shapes", "optimizer_bytes", "predict"]
