"""params.yaml as typed settings: unknown and double keys refused, types strict, ranges checked.

The schema has no values of its own: a key that is not in the file is an error, so that DVC tracks every
one. It is the reference for every key: meaning and unit are the ``description`` of the field.
"""

from __future__ import annotations

import copy
import re
import reprlib
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_validator,
)

from weightspace.errors import WeightspaceError, nearest, printable, problem
from weightspace.registry import FAMILIES, absent, find, outside

# A few lines of YAML can stand for a value of gigabytes when it is written out.
BRIEF = reprlib.Repr()
BRIEF.maxlevel, BRIEF.maxstring, BRIEF.maxlong = 2, 80, 80


MOST_COUNT = 10_000_000  # of anything that is counted: runs, epochs, steps, images, draws
MOST_SIZE = 1 << 16  # of one axis of a tensor: units, channels, pixels, components
MOST_LAYERS = 1000  # one after the other
MOST_SEED = (1 << 63) - 1  # what a column of a table can hold


class Settings(BaseModel):
    """Base of all sections: immutable, no unknown keys, no defaults: params.yaml has every value.

    A value has the type of its key and is not converted to it: no truth value is a number, no
    number with a decimal point an integer, no text a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, data: Any) -> Any:
        """Lists, which files have in place of tuples, as tuples where the key is one."""
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        tuples = {k for k, f in fields.items() if get_origin(f.annotation) is tuple}
        return {k: tuple(v) if isinstance(v, list) and k in tuples else v for k, v in data.items()}


class FamilySettings(Settings):
    """Base of the sections that hold the options of each member of a family."""

    def of(self, name: str) -> Settings:
        """Options of a member.

        Raises:
            WeightspaceError: no section of that name.

        """
        options = getattr(self, name) if name in type(self).model_fields else None
        if not isinstance(options, Settings):
            raise problem(
                f"no settings of '{name}'",
                where="params.yaml",
                expected="a section for it in that of its family, {} where it has no keys",
                do="add it",
            )
        return options


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"the lower end {pair[0]} is above the upper end {pair[1]}")
    return pair


def _different(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value twice")
    return values


def _count_or(*words: str) -> Callable[[Any], Any]:
    """Validate an integer from 1 to ``MOST_COUNT``, or one of some words."""

    def check(value: Any) -> Any:
        if value in words or (type(value) is int and 0 < value <= MOST_COUNT):
            return value
        valid = " or ".join(f"'{word}'" for word in words)
        raise ValueError(f"expected an integer from 1 to {MOST_COUNT} or {valid}")

    return check


def _label_range(value: Any) -> Any:
    """Validate the first and the last label, or ``auto``."""
    if value == "auto":
        return value
    whole = isinstance(value, list | tuple) and [type(v) for v in value] == [int, int]
    if whole and 0 <= value[0] <= value[1] <= MOST_COUNT:
        return tuple(value)
    raise ValueError("expected the first and the last label, such as [0, 9], or 'auto'")


def _moments(value: Any) -> Any:
    """Validate mean and standard deviation of a normal distribution, or ``uniform``."""
    if value == "uniform":
        return value
    numbers = isinstance(value, list | tuple) and [type(v) in (int, float) for v in value]
    if numbers == [True, True] and all(0 < v < float("inf") for v in value):
        return tuple(value)
    raise ValueError("expected mean and standard deviation, such as [100, 15], or 'uniform'")


def _either(kind: dict[str, Any], *words: str) -> WithJsonSchema:
    """Schema of a value of some kind, or one of some words."""
    return WithJsonSchema({"anyOf": [kind, *({"const": word} for word in words)]})


COUNT = {"type": "integer", "minimum": 1, "maximum": MOST_COUNT}
MOMENTS = {"type": "array", "prefixItems": [{"type": "number", "exclusiveMinimum": 0}] * 2}
LABEL = {"type": "integer", "minimum": 0, "maximum": MOST_COUNT}
LABELS = {"type": "array", "prefixItems": [LABEL] * 2}
CountOrAll = Annotated[Any, AfterValidator(_count_or("all")), _either(COUNT, "all")]
CountAllOrSets = Annotated[
    Any, AfterValidator(_count_or("all", "sets")), _either(COUNT, "all", "sets")
]
CountOrAuto = Annotated[Any, AfterValidator(_count_or("auto")), _either(COUNT, "auto")]
CountOrOriginal = Annotated[Any, AfterValidator(_count_or("original")), _either(COUNT, "original")]
MomentsOrUniform = Annotated[Any, AfterValidator(_moments), _either(MOMENTS, "uniform")]
LabelRange = Annotated[Any, AfterValidator(_label_range), _either(LABELS, "auto")]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Size = Annotated[int, Field(ge=1, le=MOST_SIZE)]
IntRange = Annotated[tuple[Count, Count], AfterValidator(_ordered)]
Widths = Annotated[tuple[Size, ...], Field(min_length=1, max_length=100)]
Factors = Annotated[
    tuple[Positive, ...], Field(min_length=1, max_length=100), AfterValidator(_different)
]
UNITS = ("channels", "hidden", "width")  # keys under nets.NAME that count units, if it has them


class SamplesPerClass(Settings):
    """Fixed number of images per class in each part; the parts never overlap."""

    train: int = Field(ge=2, le=MOST_COUNT, description="images per class to train networks on")
    val: Count = Field(description="images per class for choices and for the result R")
    test: Count = Field(description="images per class for reported figures only")


class Splits(Settings):
    """Fractions of the class sets that go to each split."""

    train: Fraction = Field(description="fraction of class sets for everything that is fitted")
    val: Fraction = Field(description="fraction for every choice")
    test_sets: Fraction = Field(description="fraction read once, by the evaluations")

    @model_validator(mode="after")
    def _sum(self) -> Self:
        total = self.train + self.val + self.test_sets
        if abs(total - 1) > 1e-6 or self.train == 0:
            raise ValueError(f"fractions must add up to 1 and train must be above 0, not {total:g}")
        return self


class DatasetSettings(Settings):
    """Where images come from and which tasks are made of them."""

    source: str = Field(description="image source, a file in src/weightspace/data/sources")
    samples_per_class: SamplesPerClass
    classes_per_task: int = Field(ge=2, le=MOST_SIZE, description="classes of a task")
    tasks: CountAllOrSets = Field(
        description="ordered tasks to draw; all; or sets, a task per class set, in the order of its classes"
    )
    unseen_classes: int = Field(
        ge=0, le=MOST_COUNT, description="classes that only test_classes may contain"
    )
    unseen_share: Fraction = Field(
        description="class sets of test_classes, as a fraction of all other class sets"
    )
    val_classes: int = Field(
        ge=0,
        le=MOST_COUNT,
        description="classes that only val may contain; 0: val has seen classes",
    )
    splits: Splits


# image sources


class DigitsSettings(Settings):
    """Digits of scikit-learn: nothing to set."""


class GlyphsSettings(Settings):
    """Letters of the DejaVu fonts. All ranges are uniform, and drawn anew for each image."""

    size: int = Field(ge=4, le=MOST_SIZE, description="side of an image in pixels")
    classes: CountOrAll = Field(description="letters to draw from those that differ, or all")
    alike: Annotated[float, Field(gt=0, le=1)] = Field(
        description="letters whose shapes correlate by this or more are one class"
    )
    rotation: NonNegative = Field(description="largest angle in degrees, either way")
    scale: PositiveRange = Field(description="longer side, as a fraction of the image's")
    shear: NonNegative = Field(description="largest slant, either way")
    shift: NonNegative = Field(description="largest shift, as a fraction of the image's side")
    noise: NonNegative = Field(description="standard deviation of noise on pixels in [0, 1]")


class IdxSettings(Settings):
    """MNIST-family files, plain or gzip, in the folder ``path``."""

    size: CountOrOriginal = Field(description="side in pixels, or original")
    labels: LabelRange = Field(description="first and last label, or auto")


class NpzSettings(Settings):
    """A NumPy archive, the file ``path``."""

    images_key: str = Field(description="name of the array of images")
    labels_key: str = Field(description="name of the array of labels")
    size: CountOrOriginal = Field(description="side in pixels, or original")
    labels: LabelRange = Field(description="first and last label, or auto")


class FolderSettings(Settings):
    """One folder of images per class in the folder ``path``."""

    size: Size = Field(description="side in pixels")
    colours: Literal["grey", "rgb"] = Field(description="one channel or three")
    classes: CountOrAll = Field(description="classes to draw, or all")


class SourcesSettings(FamilySettings):
    """Settings of each image source; only the selected one's are a dependency."""

    path: str = Field(
        min_length=1, description="file or folder of idx, npz and folder; a dependency"
    )
    digits: DigitsSettings
    glyphs: GlyphsSettings
    idx: IdxSettings
    npz: NpzSettings
    folder: FolderSettings


class ZooSettings(Settings):
    """How the population of networks is trained."""

    architecture: str = Field(description="a file in src/weightspace/nets")
    init: Literal["independent", "shared"] = Field(description="own or one common initialisation")
    runs: Count = Field(description="training runs; more never change the earlier ones")
    widths: Factors = Field(
        description="factors on channels or units of the architecture, the first 1; a shard has one"
    )
    runs_per_shard: Count = Field(description="runs trained together; the resumable unit")
    batch_size: Count = Field(description="images per step")
    optimizers: tuple[Literal["adam", "sgd"], ...] = Field(
        min_length=1, description="one of them is drawn for each run"
    )
    adam_lr: PositiveRange = Field(description="Adam learning rate, log-uniform")
    sgd_lr: PositiveRange = Field(description="SGD learning rate, log-uniform")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(description="momentum of SGD")
    precision: Literal["float32", "bf16"] = Field(
        description="of activations in training; weights and statistics are float32"
    )
    weight_decay: PositiveRange = Field(description="L2 penalty, log-uniform")
    epochs: IntRange = Field(description="fewest and most epochs of a run")
    epochs_drawn: MomentsOrUniform = Field(
        description="uniform, or mean and standard deviation of a normal one, clipped to epochs"
    )
    snapshots: int = Field(
        ge=2, le=MOST_COUNT, description="members kept of each run, distributed over its steps"
    )
    first_step: IntRange = Field(description="step of the first snapshot, uniform")
    first_unit: Literal["steps", "epochs"] = Field(description="unit of first_step")


class CnnSettings(Settings):
    """Convolutional network: 3x3 convolutions, each with ReLU and 2x2 average pooling."""

    channels: Widths = Field(description="channels of each convolution")
    batch_norm: bool = Field(description="normalise after each convolution")


class MlpSettings(Settings):
    """Fully connected network with ReLU."""

    hidden: Widths = Field(description="units of each hidden layer")


class Resnet18Settings(Settings):
    """ResNet-18 with torchvision's tensor names and, at width 64, shapes."""

    width: Size = Field(description="channels of the first stage; each further one doubles")
    stem: Literal["torchvision", "small"] = Field(
        description="7x7, stride 2, max-pooling; or for small images 3x3, stride 1"
    )


class NetsSettings(FamilySettings):
    """Sizes of each architecture; only the selected one is a dependency."""

    cnn: CnnSettings
    mlp: MlpSettings
    resnet18: Resnet18Settings


class OutputsSettings(Settings):
    """Outputs of train and val members that are stored for the fits."""

    probes: Count = Field(description="images of any class that every member is run on")


class PcaSettings(Settings):
    """First compression: one principal component basis per named tensor."""

    components: Size = Field(description="components per tensor")
    identity_below: int = Field(
        ge=0, le=MOST_COUNT, description="tensors with fewer entries are kept as they are"
    )
    align: Literal["none", "matching"] = Field(
        description="weight matching to one finished network before PCA, or none"
    )


class FitSettings(Settings):
    """What every fit of a network in this project needs."""

    epochs: Count = Field(description="passes over the training members at most")
    batch_size: int = Field(ge=2, le=MOST_COUNT, description="members per step")
    lr: Positive = Field(description="peak learning rate of AdamW, cosine to zero")
    weight_decay: Annotated[float, Field(ge=0)] = Field(description="weight decay of AdamW")
    patience: Count = Field(description="epochs without a better val loss before stopping")


class AutoencoderSettings(FitSettings):
    """Second compression, the autoencoder: what all autoencoders share, images of a behavioural loss included."""

    model: str = Field(description="a file in src/weightspace/autoencoders")
    latent: int = Field(ge=2, le=MOST_SIZE, description="numbers in the latent z")
    augment_permutations: bool = Field(
        description="mlp, variational, residual: a new order of hidden units for each train member "
        "in each step",
    )
    own_queries: Count = Field(description="behavioural loss: images of the member's task per step")
    other_queries: int = Field(
        ge=0, le=MOST_COUNT, description="behavioural loss: other images per step"
    )
    kl_weight: NonNegative = Field(description="behavioural loss: weight of the KL of the softmax")
    cosine_weight: NonNegative = Field(description="behavioural loss: weight of 1 - cosine")


class BehaviouralSettings(Settings):
    """What each autoencoder has."""

    behaviour_weight: NonNegative = Field(
        description="weight of the behavioural loss; 0: loss on weights alone"
    )


class FunctionalSettings(BehaviouralSettings):
    """Reads outputs on probe inputs, decodes to PCA coefficients."""

    reads: Literal["outputs", "coefficients", "both"] = Field(
        description="outputs on probe inputs, PCA coefficients, or both"
    )
    width: Size = Field(description="features inside encoder and decoder")
    depth: int = Field(ge=0, le=MOST_LAYERS, description="residual blocks of each")
    learn_probes: bool = Field(description="fit the probes too; every step then runs all originals")
    latent_noise: NonNegative = Field(description="noise on z while fitting")
    reference: Literal["untrained", "trained"] = Field(
        description="network that the decoder starts at and learns: a fresh one, or the best train member"
    )
    statistics: int = Field(
        ge=0,
        le=MOST_COUNT,
        description="probes on which batch statistics of decoded networks are measured; 0: they are decoded",
    )
    gain: Positive = Field(
        description="movement of the decoder's unit output, in root mean squares of a tensor's coefficients"
    )
    structural_weight: NonNegative = Field(description="weight of the coefficient error")
    precision: Literal["float32", "bf16"] = Field(
        description="of the linear layers; a CPU without bf16 products takes float32"
    )

    @model_validator(mode="after")
    def _some_loss(self) -> Self:
        if not (self.behaviour_weight or self.structural_weight):
            raise ValueError("behaviour_weight and structural_weight cannot both be 0")
        return self


class MlpAutoencoderSettings(BehaviouralSettings):
    """Autoencoder on PCA coefficients, that of the original study."""

    hidden: Widths = Field(description="units of the encoder's hidden layers")


class VariationalSettings(BehaviouralSettings):
    """Variational autoencoder on PCA coefficients."""

    hidden: Widths = Field(description="units of the encoder's hidden layers")
    prior_weight: NonNegative = Field(description="weight of the KL from the prior, nats")
    warm_up: Fraction = Field(description="fraction of the steps in which that weight rises from 0")


class ResidualSettings(BehaviouralSettings):
    """PCA coefficients as they are, and a learned stage that predicts what PCA lost."""

    hidden: Widths = Field(description="units of the hidden layers of the learned stage")
    learned: Fraction = Field(description="fraction of the latent that the learned stage fills")


class ReversePcaSettings(BehaviouralSettings):
    """Non-linear stage on weights first, PCA of its features after it."""

    hidden: Widths = Field(description="units of the hidden layers")
    features: Size = Field(description="features of the non-linear stage")
    refit: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="fraction of the epochs, the last, that fit the decoder behind the PCA"
    )


class TokensSettings(BehaviouralSettings):
    """Transformer on tokens, one per output channel."""

    token: Size = Field(description="numbers in a token; longer channels give several")
    normalise: Literal["token", "layer", "none"] = Field(
        description="centre and scale per token, per layer, or raw weights"
    )
    features: Size = Field(description="numbers that a token is encoded to")
    linear: bool = Field(description="a linear path in addition to each transformer")
    width: Size = Field(description="features inside the transformers")
    depth: int = Field(ge=0, le=MOST_LAYERS, description="blocks of each transformer")
    heads: Size = Field(description="attention heads; a divisor of width")
    window: Size = Field(description="tokens that attend to each other")
    contrast_weight: NonNegative = Field(description="weight of NT-Xent of permuted views")
    temperature: Positive = Field(description="temperature of NT-Xent")
    refit: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="fraction of the epochs, the last, that fit the decoder behind the PCA"
    )


class AutoencodersSettings(FamilySettings):
    """Settings of each autoencoder; only the selected one's are a dependency."""

    functional: FunctionalSettings
    mlp: MlpAutoencoderSettings
    variational: VariationalSettings
    residual: ResidualSettings
    reverse_pca: ReversePcaSettings
    tokens: TokensSettings


class SharedEncoderSettings(FitSettings):
    """Shared encoder: dataset and result to the latent of weights."""

    model: str = Field(description="a file in src/weightspace/shared_encoders")
    dataset_encoder: str = Field(description="a file in src/weightspace/dataset_encoders")
    result: Literal["accuracy", "loss"] = Field(description="the result R, measured on val images")
    width: Size = Field(description="units of each hidden layer")
    depth: int = Field(
        ge=1, le=MOST_LAYERS, description="hidden layers (point) or residual blocks (flow)"
    )
    fourier: Size = Field(description="frequencies of the result embedding")
    temperature: Positive = Field(description="temperature of NT-Xent")
    dropout: Fraction = Field(description="fraction of training rows without D, and without R")


class FlowSettings(Settings):
    """Conditional flow of latents: many different networks for one (D, R)."""

    contrast_weight: NonNegative = Field(description="weight of NT-Xent")
    images_per_class: int = Field(
        ge=2, le=MOST_COUNT, description="random images behind D in each step"
    )
    steps: Count = Field(description="steps from noise to a latent")
    critic_steps: int = Field(
        ge=0, le=MOST_COUNT, description="steps towards the target by the critic; 0: none"
    )
    critic_reach: Positive = Field(
        description="movement of a latent's entries that weighs as much as the critic's error"
    )
    critic_by_class: bool = Field(
        description="whether the critic reads one class of D at a time, all by the same numbers"
    )
    critic_width: Size = Field(description="units of each hidden layer of the critic")
    critic_depth: int = Field(ge=1, le=MOST_LAYERS, description="residual blocks of the critic")
    critic_rounds: Count = Field(description="times that draws are measured for the critic")
    critic_draws: Count = Field(description="draws for train tasks in each round")
    critic_images: Count = Field(
        description="random train images of each class that they are measured on, or all there are"
    )
    critic_slopes: NonNegative = Field(
        description="weight of the slopes of their results by the latents; 0: results alone"
    )
    critic_epochs: Count = Field(description="passes over the draws in each round")
    precision: Literal["float32", "bf16"] = Field(
        description="of the linear layers; a CPU without bf16 products takes float32"
    )


class PointSettings(Settings):
    """The original study's shared encoder: one latent for one (D, R)."""

    length_weight: NonNegative = Field(description="weight of the length loss")


class SharedEncodersSettings(FamilySettings):
    """Settings of each shared encoder; only the selected one's are a dependency."""

    flow: FlowSettings
    point: PointSettings


class StatisticsSettings(Settings):
    """Mean and standard deviation of each pixel: nothing to set."""


class DeepsetsSettings(Settings):
    """Learned set encoder."""

    width: Size = Field(description="units of each hidden layer")
    features: Size = Field(description="numbers in the embedding of a class")


class DistillationSettings(Settings):
    """Images learned for each class by gradient matching."""

    images: Count = Field(description="images learned for each class")
    networks: Count = Field(description="random networks whose gradients are matched")
    batch: Count = Field(description="networks of a step")
    steps: int = Field(ge=0, le=MOST_COUNT, description="steps of Adam")
    lr: Positive = Field(
        description="rate of the first step, in units of the images' standard deviation"
    )
    width: Size = Field(description="channels of the random networks")


class ClipSettings(Settings):
    """Features of a pre-trained CLIP model; needs the extra ``clip``."""

    model: str = Field(description="name of the model in open_clip")
    pretrained: str = Field(
        min_length=1,  # without a name open_clip gives random weights
        description="name of its weights in open_clip, or a local file",
    )


class DatasetEncodersSettings(FamilySettings):
    """Settings of each dataset encoder; only the selected one's are a dependency."""

    statistics: StatisticsSettings
    deepsets: DeepsetsSettings
    distillation: DistillationSettings
    clip: ClipSettings


class GuidanceSettings(Settings):
    """Gradient steps on latents through the frozen decoder, on train images; 0 steps switch it off."""

    sampling_steps: int = Field(
        ge=0, le=MOST_COUNT, description="steps that bring a drawn network's result to the request"
    )
    encoding_steps: int = Field(
        ge=0,
        le=MOST_COUNT,
        description="steps that bring a decoded network's outputs to the original's",
    )
    rate: Positive = Field(description="first step, in units of a latent's entries")
    images_per_class: Count = Field(description="train images per class in each step")

    def images_per_step(self, images: int, classes: int) -> int:
        """Labelled images that a step reads, of tasks with so many train images of each class."""
        return classes * min(self.images_per_class, images)


class EvaluateSettings(Settings):
    """How much is drawn and resampled when measuring."""

    targets: int = Field(
        ge=2, le=MOST_COUNT, description="requested results, evenly over the trained range"
    )
    draws: Count = Field(description="networks drawn for one (D, R)")
    val_draws: Count = Field(description="the same on val, where figures serve choices")
    guided_draws: Count = Field(description="of them, networks that are guided: the first ones")
    controls: bool = Field(
        description="also measure what the figures are compared with: false saves time in sweeps"
    )
    random_inputs: int = Field(
        ge=2, le=MOST_COUNT, description="random images of the second comparison of outputs"
    )
    novelty_networks: int = Field(
        ge=2,
        le=MOST_COUNT,
        description="samples, and train members, compared with all finished train members",
    )
    two_sample_networks: int = Field(
        ge=2,
        le=MOST_COUNT,
        description="members of a split, in two-sample tests with as many draws; all of some tasks",
    )
    finetune_tasks: int = Field(
        ge=2,
        le=MOST_COUNT,
        description="tasks for fine-tuning, ensembles and baselines by training",
    )
    ensemble: int = Field(ge=2, le=MOST_COUNT, description="networks of an ensemble")
    bootstrap: int = Field(
        ge=10, le=MOST_COUNT, description="resamples of class sets for 95 % intervals"
    )


class HypernetworkSettings(Settings):
    """A hypernetwork, trained on nothing but hitting R on train images of train tasks: no population."""

    width: Size = Field(description="units of each hidden layer")
    steps: Count = Field(description="steps of AdamW; from 100 on in hundreds")
    lr: Positive = Field(description="peak learning rate, cosine to zero")
    conditions: int = Field(
        ge=2, le=MOST_COUNT, description="pairs of a task and a target in each step, a network each"
    )
    images_per_class: Count = Field(description="train images per class in each step")


class BaselinesSettings(Settings):
    """What draws are compared with, given the same information: tuned on val, each by itself."""

    hypernetwork: HypernetworkSettings


class RuntimeSettings(Settings):
    """Where to compute. Changes no result but its last bits, and is a dependency of no stage."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        description="of every stage, the commands and the API; auto takes a GPU where there is one"
    )
    workers: CountOrAuto = Field(
        description="processes of the zoo and evaluate_reconstruction; on a GPU at most 4"
    )
    executor: Literal["local", "ray"] = Field(
        description="their work on this machine, or on Ray: RAY_ADDRESS, else started here"
    )


class Params(Settings):
    """All settings of the pipeline, as in params.yaml."""

    seed: int = Field(ge=0, le=MOST_SEED, description="root of all random streams")
    dataset: DatasetSettings
    zoo: ZooSettings
    outputs: OutputsSettings
    pca: PcaSettings
    autoencoder: AutoencoderSettings
    shared_encoder: SharedEncoderSettings
    guidance: GuidanceSettings
    evaluate: EvaluateSettings
    baselines: BaselinesSettings
    runtime: RuntimeSettings
    sources: SourcesSettings
    nets: NetsSettings
    autoencoders: AutoencodersSettings
    dataset_encoders: DatasetEncodersSettings
    shared_encoders: SharedEncodersSettings

    @property
    def width(self) -> float:
        """Width of the networks that these settings are of: the first of ``zoo.widths``."""
        return self.zoo.widths[0]

    def at(self, width: float) -> Params:
        """Settings of one width of the zoo: the architecture has its sizes.

        Raises:
            WeightspaceError: no such width, or one at which the architecture has no sizes.

        """
        if width not in self.zoo.widths:
            raise problem(
                f"no networks of width {width:g}",
                where="zoo.widths",
                expected=", ".join(f"{w:g}" for w in self.zoo.widths),
            )
        nets, name = self.nets, self.zoo.architecture
        if width != self.width:
            sizes = widened(nets.of(name), width / self.width)
            nets = nets.model_copy(update={name: sizes})
        zoo = self.zoo.model_copy(update={"widths": (width,)})
        return self.model_copy(update={"nets": nets, "zoo": zoo})

    def each_width(self) -> list[Params]:
        """Settings of every width of the zoo, as :meth:`at` gives them."""
        return [self.at(width) for width in self.zoo.widths]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as plain values: the class may be one of :func:`_schema`.

        Without the sections of members from outside that are not selected: another machine may lack
        these members.
        """
        data = self.model_dump(mode="json")
        for name, family in FAMILIES.items():
            section, key = family.key.split(".")
            built_in: Any = Params.model_fields[name].annotation
            needed = {*built_in.model_fields, data[section][key]}
            data[name] = {k: v for k, v in data[name].items() if k in needed}
        return validate_params, (data,)


def widened(settings: Settings, width: float) -> Settings:
    """Sizes of an architecture with so many times the channels or units.

    Args:
        settings: section ``nets.NAME`` of params.yaml.
        width: factor.

    Raises:
        WeightspaceError: nothing to multiply, or a product that is no integer.

    >>> widened(CnnSettings(channels=(8, 16), batch_norm=False), 0.5).channels
    (4, 8)

    """
    if width == 1:
        return settings
    sizes = {k: getattr(settings, k) for k in UNITS if k in type(settings).model_fields}
    products = {
        k: [width * x for x in (v if isinstance(v, tuple) else (v,))] for k, v in sizes.items()
    }
    numbers = [x for some in products.values() for x in some]
    if not numbers or any(x != round(x) or not 1 <= x <= MOST_SIZE for x in numbers):
        raise problem(
            f"width {width:g} gives no sizes of this architecture",
            where="params.yaml: zoo.widths",
            got={k: list(v) if isinstance(v, tuple) else v for k, v in sizes.items()} or "no sizes",
            expected=f"one of {', '.join(UNITS)} under nets, with integers at every width",
        )
    as_given = {
        k: tuple(map(round, v)) if isinstance(sizes[k], tuple) else round(v[0])
        for k, v in products.items()
    }
    return settings.model_copy(update=as_given)


def settings_of(family: str, name: str) -> type[Settings]:
    """Class that validates the options of a member.

    Args:
        family: section of the family in params.yaml, such as ``autoencoders``.
        name: the member.

    Raises:
        WeightspaceError: no such member, or one from outside without the class ``Settings``.

    """
    if member := find(family, name):
        options = getattr(member.load(), "Settings", None)
        if not (isinstance(options, type) and issubclass(options, Settings)):
            raise problem(
                "no class Settings",
                where=f"{family} '{name}' of {member.distribution}",
                expected="a subclass of weightspace.params.Settings in its module",
            )
        return options
    section: Any = Params.model_fields[family].annotation
    if name in section.model_fields:
        built_in: type[Settings] = section.model_fields[name].annotation
        return built_in
    if name in FAMILIES[family].table:
        optional: type[Settings] = import_module(FAMILIES[family].table[name]).Settings
        return optional
    raise problem(
        absent(family, name) or f"unknown member '{name}' of {family}",
        where="settings of an artefact",
    )


def _schema(data: dict[str, Any]) -> type[Params]:
    """Schema of a file: that of the package, and the sections that only some files have.

    These are of members from outside, and of built-in ones with a class ``Settings`` of their module.
    """
    sections: dict[str, Any] = {}
    for name in FAMILIES:
        family: Any = Params.model_fields[name].annotation
        keys = data[name] if isinstance(data.get(name), dict) else {}
        more = [k for k in keys if isinstance(k, str) and k not in family.model_fields]
        known = [k for k in more if find(name, k) or k in FAMILIES[name].table]
        fields: dict[str, Any] = {k: (settings_of(name, k), ...) for k in known}
        if fields:
            sections[name] = create_model(family.__name__, __base__=family, **fields), ...
    return create_model("Params", __base__=Params, **sections) if sections else Params


def options_of(family: str, name: str, data: dict[str, Any]) -> Settings:
    """Validate the options of a member, as an artefact carries them.

    Args:
        family: section of the family in params.yaml, such as ``autoencoders``.
        name: the member.
        data: what ``model_dump`` of its options gave.

    """
    return settings_of(family, name).model_validate(data)


def _valid_names(schema: type[Params], location: tuple[int | str, ...]) -> list[str]:
    """Names allowed for the last part of a location in the schema."""
    model: Any = schema
    for part in location[:-1]:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return []
        field = model.model_fields.get(str(part))
        model = field.annotation if field else None
    return (
        list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []
    )


def brief(value: object) -> str:
    """A value as the file has it; of a long one the ends."""
    return BRIEF.repr(list(value) if isinstance(value, tuple) else value)


def _explain(path: Path, schema: type[Params], error: ValidationError) -> WeightspaceError:
    """Turn the first validation error into the one line that a person needs.

    A mistyped key is unknown and the right one is missing: the first says how to mend both.
    """
    order = {"extra_forbidden": 0, "missing": 2}
    errors = sorted(error.errors(), key=lambda e: order.get(e["type"], 1))
    first = errors[0]
    location = tuple(p for p in first["loc"])
    key = ".".join(str(p) for p in location) or "the file"
    other = [e for e in errors[1:] if (e["type"] == "missing") <= (first["type"] == "missing")]
    more = f" (and {len(other)} more)" if other else ""
    if first["type"] == "extra_forbidden":
        if (
            len(location) == 2
            and location[0] in FAMILIES
            and (line := absent(str(location[0]), str(location[-1])))
        ):
            return problem(f"'{key}': {line}", where=path)
        names = _valid_names(schema, location)
        names += outside(str(location[0])) if len(location) == 2 and location[0] in FAMILIES else []
        hint = nearest(str(location[-1]), names)
        return problem(f"unknown key '{key}'{more}", where=path, do=hint)
    if first["type"] == "missing":
        values = ADDED | SINCE
        before = f"; version 0.1 did as with {values[key]}" if key in values else ""
        return problem(
            f"key '{key}' is missing{more}",
            where=path,
            expected="every key, so that DVC tracks it",
            do=f"add it{before}",
        )
    message = first["msg"][0].lower() + first["msg"][1:]
    return problem(
        f"'{key}': {message}{more}",
        where=path,
        got=brief(first["input"]),
        do="correct the value",
    )


class Loader(yaml.SafeLoader):
    """YAML as DVC reads it, by version 1.2: ``1e-3`` is a number, ``010``, ``1:30`` and ``yes`` are none."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice: the first value would be lost without a word."""
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in lines:
                raise problem(f"key '{name}' stands twice, in lines {lines[name]} and {line}")
            if name is not None:
                lines[name] = line
        return super().construct_mapping(node, deep)


_NUMBERS = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9]*)",
    "float": r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in pairs if tag.rpartition(":")[2] not in _NUMBERS]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _regex in _NUMBERS.items():
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_regex})$"), None)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a table of settings from a YAML file, no key twice.

    Raises:
        WeightspaceError: no file, no YAML, no table; one line.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise problem(
            "file is missing", where=path, do="run from the root of the project"
        ) from error
    except OSError as error:
        raise problem(f"cannot read ({error.strerror})", where=path, expected="a file") from error
    except UnicodeDecodeError as error:
        raise problem(f"not valid YAML ({error})", where=path) from error
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """The same of the text of such a file."""
    try:
        data = yaml.load(text, Loader)
    except WeightspaceError as error:
        raise problem(str(error), where=path, do="remove one of them") from error
    except Exception as error:  # PyYAML fails in many ways: dates, numbers and tags of no sense
        raise problem(f"not valid YAML ({error})", where=path) from error
    if not isinstance(data, dict):
        raise problem(
            "not a table of settings",
            where=path,
            got=type(data).__name__,
            expected="keys and values",
        )
    return data


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and validate params.yaml.

    Raises:
        WeightspaceError: no file, no YAML, unknown or double key, or a value out of range; one line.

    """
    return validate_params(read_yaml(Path(path)), path)


# Keys that version 0.1 did not have yet -> the value of what it did, or the key that it took it from
ADDED: dict[str, float | str] = {
    "baselines.hypernetwork.width": "shared_encoder.width",
    "shared_encoders.flow.critic_by_class": False,
    "shared_encoders.flow.critic_depth": "shared_encoder.depth",
    "shared_encoders.flow.critic_slopes": 0.0,
    "shared_encoders.flow.critic_width": "shared_encoder.width",
    "zoo.precision": "float32",
}


# Keys that came later and whose value of before changes nothing: no line tells of them
SINCE: dict[str, list[float]] = {"zoo.widths": [1.0]}


def settings_of_project(data: dict[str, Any], where: Path | str) -> Params:
    """Settings of a finished project, of this version or 0.1; a line on standard error says if of 0.1.

    The pipeline itself takes those of this version only, by :func:`load_params`.

    Args:
        data: the file as plain tables.
        where: the file, for messages.

    Raises:
        WeightspaceError: as :func:`load_params`.

    """
    data, added = copy.deepcopy(data), []
    for key, value in ADDED.items():
        section, name = _section(data, key)
        if section and name not in section:
            source, of_source = _section(data, value) if isinstance(value, str) else ({}, "")
            section[name] = source.get(of_source, value)
            added.append(f"{key} {brief(section[name])}")
    for key, values in SINCE.items():
        section, name = _section(data, key)
        if section:
            section.setdefault(name, values)
    if added:
        _say_added(str(where), ", ".join(added))
    return validate_params(data, where)


def _section(data: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Section of a dotted key, empty where the file has none, and the last part of its name."""
    *sections, name = key.split(".")
    section: Any = data
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else {}, name


@cache  # a line for each file
def _say_added(where: str, added: str) -> None:
    print(f"warning: {printable(where)}: of version 0.1, read as {added}", file=sys.stderr)


def validate_params(data: dict[str, Any], where: Path | str = "params") -> Params:
    """Validate settings given as a plain dictionary, with the errors of :func:`load_params`."""
    schema = _schema(data)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _explain(Path(where), schema, error) from error
