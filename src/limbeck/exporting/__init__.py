"""A trained network as files for others: its weights in their smallest form, or a graph that runs without its code."""

from limbeck.exporting.graph import Graph, Inputs, Interface, Normalisation, Port, graph_of
from limbeck.exporting.int8 import quantize_file
from limbeck.exporting.library_folder import read_library, write_library
from limbeck.exporting.network import ExportedNetwork, ExportedStep, graph_inputs
from limbeck.exporting.onnx_file import ONNX, check_onnx, opsets, read_onnx, write_onnx
from limbeck.exporting.program import PROGRAM, read_program, write_program
from limbeck.exporting.sizes import exported_bytes, ideal_bytes
from limbeck.exporting.writing import CONFIG, WEIGHTS, stored, write_folder

__all__ = [
    "CONFIG",
    "ONNX",
    "PROGRAM",
    "WEIGHTS",
    "ExportedNetwork",
    "ExportedStep",
    "Graph",
    "Inputs",
    "Interface",
    "Normalisation",
    "Port",
    "check_onnx",
    "exported_bytes",
    "graph_inputs",
    "graph_of",
    "ideal_bytes",
    "opsets",
    "quantize_file",
    "read_library",
    "read_onnx",
    "read_program",
    "stored",
    "write_folder",
    "write_library",
    "write_onnx",
    "write_program",
]
