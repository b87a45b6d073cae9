"""What training the zoo of a suite would take, from its counted operations and measured throughput.

    PYTHONPATH=src python benchmarks/cost.py benchmarks/original.yaml benchmarks/zoo_training.json

For each network of the second file that has a measured throughput: how long the zoo of the first takes at
as many operations per second. An estimate: another network reaches other figures, and the later stages come on top.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import yaml

import report
from weightspace.experiments.suite import load_suite
from weightspace.nets.base import build_net
from weightspace.params import validate_params

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from workspace import locate


def params_of(suite):
    """Settings of a suite's base."""
    data = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in suite.base.items():
        section, last = locate(data, key)
        section[last] = yaml.safe_load(value) if isinstance(value, str) else value
    return validate_params(data)


def run_steps(params):
    """Optimiser steps of all runs at the mean length."""
    drawn = params.zoo.epochs_drawn
    epochs = sum(params.zoo.epochs) / 2 if drawn == "uniform" else drawn[0]
    images = params.dataset.classes_per_task * params.dataset.samples_per_class.train
    return params.zoo.runs * epochs * max(1, images // params.zoo.batch_size)


def operations(params, shape):
    """Floating point operations of one step of one run, forward and backward."""
    options = params.nets.of(params.zoo.architecture)
    net = build_net(params.zoo.architecture, shape, params.dataset.classes_per_task, options)
    images = torch.empty(params.zoo.batch_size, *shape, device="meta")  # shapes, no numbers
    return report.training_flops(net.module.to("meta"), images)


def main():
    """Print the operations, and hours at each measured throughput."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="?", type=Path, default=Path("benchmarks/original.yaml"))
    parser.add_argument(
        "measured", nargs="?", type=Path, default=Path("benchmarks/zoo_training.json")
    )
    arguments = parser.parse_args()
    params = params_of(load_suite(arguments.suite))
    folder = params.sources.folder
    shape = (3 if folder.colours == "rgb" else 1, folder.size, folder.size)
    steps, each_step = run_steps(params), operations(params, shape)
    print(
        f"{steps:,.0f} run-steps of {each_step / 1e9:,.1f} GFLOP: {steps * each_step / 1e15:,.1f} PFLOP"
    )
    for name, figures in json.loads(arguments.measured.read_text()).items():
        if isinstance(figures, dict) and "at_once" in figures:
            rate = figures["flops_per_run_step"] * figures["at_once"]["median"]  # a second
            hours = steps * each_step / rate / 3600
            print(f"at the {rate / 1e9:,.0f} GFLOP/s of {name}: {hours:,.0f} hours")


if __name__ == "__main__":
    main()
