"""The schema of a recipe: every key with its type, default, unit and meaning; askd.recipe loads it, --help prints it."""
from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Optional

from omegaconf import MISSING

Device = Enum("Device", "auto cpu cuda")
Precision = Enum("Precision", "auto fp32 bf16 fp16")
Resume = Enum("Resume", "auto never")
Degradation = Enum("Degradation", "bicubic bilinear area nearest random released")
Augment = Enum("Augment", "none flip adaface surveillance")
Sampler = Enum("Sampler", "shuffle identities pairs")
OnBadImage = Enum("OnBadImage", "fail skip")
Attention = Enum("Attention", "none se bam cbam")
CbamOrder = Enum("CbamOrder", "channel_first spatial_first parallel")
CbamParts = Enum("CbamParts", "both channel spatial")
CbamPool = Enum("CbamPool", "both average max")
Space = Enum("Space", "maps logits")
Reduction = Enum("Reduction", "mean sum")
Distance = Enum("Distance", "cosine l2")
FeatureDistance = Enum("FeatureDistance", "cosine mse at")
Hint = Enum("Hint", "none conv conv_bn")
Logits = Enum("Logits", "margin cosine")
CentreSource = Enum("CentreSource", "learnt mean")
Projection = Enum("Projection", "none linear")
Margin = Enum("Margin", "arcface cosface adaface combined contrastive triplet")
Learners = Enum("Learners", "abe heads")
Optimizer = Enum("Optimizer", "sgd adamw")
Schedule = Enum("Schedule", "constant multistep polynomial cosine")
Initialiser = Enum("Initialiser", "default xavier")
Protocol = Enum("Protocol", "insightface askd exact")
After = Enum("After", "benchmark export")


@dataclass
class Data:
    set: str = MISSING
    """Dataset card (datasets/<set>.yaml): where the files are expected, what they hold, which verification sets come with them."""
    path: Optional[str] = None
    """Folder of the dataset, in place of the card's own."""
    min_images: int = 1
    """Images; identities with fewer are left out of training."""
    holdout: float = 0.0
    """Fraction of the training identities, chosen by hash of their names, kept from training to choose checkpoints on."""
    sizes: list[int] = field(default_factory=lambda: [28])
    """Pixels (1..112): the student's input sizes, one drawn per image. 112 is full resolution."""
    degradation: Degradation = Degradation.bicubic
    """How HR becomes LR, in training and in evaluation."""
    quantise: bool = False
    """Round the LR image to 8 bits before it is upsampled, as a stored image would be."""
    augment: Augment = Augment.flip
    """What happens to training images: flip mirrors half of them, and so do adaface (a fifth each: crop and colours of the HR image, low
    resolution of the student's) and surveillance (colours of the HR image; blur, noise and JPEG of the student's, at LR size)."""
    sampler: Sampler = Sampler.shuffle
    """Batches of a permutation, of people with data.images_per_identity images each, or of as many genuine as impostor pairs (ABE)."""
    images_per_identity: Optional[int] = None
    """Images of each person in a batch, for data.sampler=identities and nothing else."""
    drop_last: bool = True
    """Leave out an epoch's last incomplete batch; false trains on it as it is (data.sampler=shuffle)."""
    on_bad_image: OnBadImage = OnBadImage.fail
    """An image that cannot be read ends the training, or is skipped: counted, and replaced by another of the person, or else of anyone."""
    workers: int = 2
    """Processes that read and decode; 0 does it in the training process."""


@dataclass
class Ensemble:
    learners: int = 4
    """Embeddings of network.embedding / learners each, concatenated (ABE-M's M); 1 is the paper's control ABE-1."""
    branch: int = 3
    """Stage, from 1, after which the learners part: the stages up to it are all learners' own."""
    depth: int = 1
    """Residual blocks of each learner's attention module."""
    kind: Learners = Learners.abe
    """abe: an attention mask per learner, the stages after the branch shared | heads: no masks, stages of their own (the control)."""


@dataclass
class Network:
    backbone: str = "iresnet50"
    """iresnet10 (ours, for two cores), iresnet18, iresnet34, iresnet50, iresnet100, iresnet152, mobilefacenet, mobilefacenet_x2
    (arcface_torch's mbf), cmt_ti, cmt_xs, cmt_s, cmt_b, or timm/NAME (timm/resnet18, say): any of timm's that takes 112x112 images,
    with network.attention=none."""
    attention: Attention = Attention.cbam
    """Attention module at the end of every residual branch: none, SE (channels), BAM (both, side by side), CBAM (both, one after the other)."""
    spatial_kernel: int = 7
    """Pixels: CBAM's spatial convolution, 7 (CBAM paper) or 3 (released A-SKD code)."""
    cbam_order: CbamOrder = CbamOrder.channel_first
    """CBAM: channel attention and then spatial (CBAM paper), the other way round, or both of the same features."""
    cbam_parts: CbamParts = CbamParts.both
    """CBAM: channel and spatial attention, or one alone (ablations of its paper)."""
    cbam_pool: CbamPool = CbamPool.both
    """CBAM: both attentions look at averages and at maxima, or at one alone (ablations of its paper)."""
    reduction: int = 16
    """Channels per hidden unit of SE's, BAM's and CBAM's channel attention, and of BAM's spatial one."""
    embedding: int = 512
    """Width of the embedding."""
    dropout: float = 0.0
    """Probability, before the embedding layer."""
    ensemble: Optional[Ensemble] = None
    """ABE-M: several learners on one trunk, one embedding; null: a single network."""
    initialiser: Initialiser = Initialiser.default
    """Random weights: torch's own, or xavier-uniform for every convolution and linear layer (released A-SKD code)."""
    init: str = "random"
    """Where student and baseline start: random, teacher, or the path of a run folder or checkpoint (fine-tuning)."""


@dataclass
class DivergenceTerm:
    weight: float = 1.0
    """Factor of the term in the loss: ABE's lambda_div, 1 in its paper."""
    margin: float = 1.0
    """Squared distance (0..4) of unit vectors from which on two learners are far enough apart: 1 is a cosine of 0.5."""
    reduction: Reduction = Reduction.mean
    """mean over images and pairs of learners, beside the identity loss's mean over learners: weight 1 is then as the paper's at M = 3
    (beside contrastive at M = 2), and its sums over learners and pairs weigh the term (M-1)/2 times as much; sum over pairs, mean over images."""


@dataclass
class Head:
    kind: Margin = Margin.arcface
    """Margin on the true class: arcface cos(theta+m) | cosface cos(theta)-m | adaface by feature norm | combined cos(m1 theta+m2)-m3;
    or, without class centres, contrastive | triplet, of the batch's own pairs (data.sampler=identities or pairs; askd[metric])."""
    margin: float = 0.5
    """arcface: radians. cosface: a cosine (0.35, say). adaface: m (0.4 in its paper). combined has head.margins instead.
    contrastive, triplet: a squared distance of unit vectors (1 in ABE, 0.2 in FaceNet)."""
    margins: Optional[list[float]] = None
    """m1, m2 (radians), m3 of combined."""
    h: Optional[float] = None
    """AdaFace's concentration; null: 0.333."""
    logit_scale: float = 64.0
    """Factor on the cosines: ArcFace's s; contrastive and triplet have none."""
    subcentres: int = 1
    """Centres per class, of which the nearest counts."""
    label_smoothing: float = 0.0
    """Probability that the target leaves to the other classes."""
    warmup_epochs: float = 0.0
    """Epochs over which the margin grows from none to its own."""
    sharded: Optional[bool] = None
    """Class centres split over the processes, each with the optimiser's state of its own; null: where there are several."""
    sample_rate: float = 1.0
    """Part of the classes that a step sees: the people of its batch, and every other with this probability (PartialFC)."""
    weight: float = 1.0
    """Factor of the identity loss; 0: no head and no labels, the student learns from the teacher alone."""
    divergence: Optional[DivergenceTerm] = None
    """ABE's divergence loss between an ensemble's learners; needs no teacher, and so is part of what teacher and baseline learn, too."""


@dataclass
class AttentionTerm:
    weight: float = 5.0
    """Factor of the term in the loss: the paper's lambda."""
    space: Space = Space.maps
    """Compare maps after the sigmoid, or logits before it (released A-SKD code)."""
    reduction: Reduction = Reduction.mean
    """Mean over all maps, or their sum (released A-SKD code: 48 maps)."""
    channel: float = 1.0
    """Relative weight of channel attention."""
    spatial: float = 1.0
    """Relative weight of spatial attention."""
    distance: Distance = Distance.cosine
    """1 - cos of two maps, or their mean squared difference (an ablation of the paper)."""

    teacher_parts = {"attention"}


@dataclass
class FeatureTerm:
    weight: float = 20.0
    """Factor of the term in the loss; F-SKD's is 20."""
    distance: FeatureDistance = FeatureDistance.cosine
    """cosine (F-SKD) | mse (FitNet) | at, of sums of squares over channels (attention transfer)."""
    hint: Hint = Hint.conv_bn
    """1x1 convolution on the student's side: conv_bn (F-SKD), conv (FitNet), none (attention transfer)."""
    stages: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    """Stages compared, counted from 1."""

    teacher_parts = {"stages"}


@dataclass
class RelationTerm:
    weight: float = 1.0
    """Factor of the term in the loss."""
    distance: float = 1.0
    """Factor of RKD's distances between embeddings."""
    angle: float = 2.0
    """Factor of RKD's angles between embeddings."""
    cross: float = 0.0
    """Factor of F-SKD's cross-sample affinity, on the last stage; the two networks need equal channels there."""

    @property
    def teacher_parts(self) -> set[str]:
        return {"stages"} if self.cross else set()


@dataclass
class LogitTerm:
    weight: float = 1.0
    """Factor of the term in the loss."""
    temperature: float = 4.0
    """T: logits are divided by it, the loss is multiplied by its square."""
    logits: Logits = Logits.margin
    """Soften logits with the margin (F-SKD), or the scaled cosines without it."""
    source: CentreSource = CentreSource.learnt
    """The teacher's class centres: those it learnt with the same classes, or the means of its embeddings (any teacher)."""

    teacher_parts = frozenset()


@dataclass
class CentresTerm:
    source: CentreSource = CentreSource.learnt
    """The teacher's class centres: those it learnt with the same classes, or the means of its embeddings (any teacher)."""
    trainable: bool = False
    """Train the inherited centres on, or keep them as they are."""

    teacher_parts = frozenset()


@dataclass
class EmbeddingTerm:
    weight: float = 1.0
    """Factor of the term in the loss."""
    distance: Distance = Distance.cosine
    """1 - cos, or the mean squared difference of the embeddings' numbers."""
    projection: Projection = Projection.none
    """Linear map from the student's width to the teacher's, in training only; none needs equal widths."""

    teacher_parts = frozenset()


@dataclass
class Distill:
    attention: Optional[AttentionTerm] = None
    """A-SKD: 1 - cos between the student's and the teacher's attention maps."""
    feature: Optional[FeatureTerm] = None
    """Distance between the outputs of the student's and the teacher's stages: F-SKD, FitNet, attention transfer."""
    relation: Optional[RelationTerm] = None
    """RKD's relations between samples' embeddings, F-SKD's between their feature maps."""
    logit: Optional[LogitTerm] = None
    """KD: divergence of softened class distributions."""
    embedding: Optional[EmbeddingTerm] = None
    """Distance between the student's embedding and the teacher's: works with any teacher."""
    centres: Optional[CentresTerm] = None
    """The student's head starts from the teacher's class centres (ProxylessKD)."""

    def teacher_parts(self) -> set[str]:
        """What the terms look at of the teacher beside its embedding: `attention`, `stages`; both where a term's section does not say."""
        terms = [term for key in fields(self) if (term := getattr(self, key.name)) is not None]
        return set().union(*(getattr(term, "teacher_parts", {"attention", "stages"}) for term in terms))


@dataclass
class Train:
    epochs: float = 20.0
    """Passes over the training images."""
    batch: int = 128
    """Images per optimiser step, over all processes together."""
    optimizer: Optimizer = Optimizer.sgd
    """sgd or adamw."""
    lr: float = 0.1
    """Peak learning rate."""
    momentum: float = 0.9
    """SGD's momentum."""
    nesterov: bool = True
    """SGD with Nesterov's momentum."""
    weight_decay: float = 5e-4
    """Decay per step and learning rate."""
    decay_all: bool = False
    """Decay norms, PReLU slopes and biases too (released A-SKD code)."""
    schedule: Schedule = Schedule.polynomial
    """Shape of the learning rate."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up."""
    milestones: list[float] = field(default_factory=list)
    """Epochs after which multistep multiplies by gamma."""
    gamma: float = 0.1
    """Factor of multistep."""
    power: float = 2.0
    """Exponent of polynomial."""
    sync_bn: bool = False
    """Batch norms over the whole batch, not over each process's part: results then don't depend on the number of processes."""
    clip: Optional[float] = 5.0
    """Largest norm of the gradient; null: none."""
    accumulate: int = 1
    """Micro-batches that train.batch is cut into, for less memory. The gradient is the mean of theirs: the same up to floating-point order,
    but for what looks at a batch as a whole and now sees a micro-batch: batch norms, distill.relation, AdaFace's feature norms."""
    ema: Optional[float] = None
    """Decay of the weights' moving average, 0.999 say, which is then evaluated, selected and exported in place of the last weights;
    null: none. At step n no more than (1 + n) / (10 + n)."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    log_every: int = 20
    """Steps between log lines."""


@dataclass
class Eval:
    sets: list[str] = field(default_factory=list)
    """Sets of the benchmark (pairs, gallery and probes, templates): a name from the dataset's card, `card/name`,
    or the path of a .bin, a .csv of pairs, or a folder."""
    sizes: list[int] = field(default_factory=lambda: [112, 56, 28, 14])
    """Pixels: image sizes to score at; a set with images of other sizes than 112x112 is scored once, as it is, brought to 112x112."""
    degradations: list[Degradation] = field(default_factory=list)
    """How askd.benchmark makes faces small, each in turn; empty: as data.degradation says."""
    cross: bool = False
    """askd.benchmark also scores every size against every other: galleries (left images of pairs) at one, probes at another."""
    protocols: list[Protocol] = field(default_factory=lambda: [Protocol.insightface, Protocol.askd])
    """How pairs are scored: the field's two ways, or exact (thresholds among the scores themselves); the first is compared by."""
    during: list[str] = field(default_factory=list)
    """Verification sets scored during training, at the training sizes; `holdout` is the held-out identities (all pairs, AUC)."""
    every_epochs: float = 1.0
    """Epochs between verifications during training."""
    select: str = "last"
    """Which checkpoint becomes the model: last, or a set of `eval.during` whose mean AUC is then maximised."""
    batch: int = 128
    """Images per forward pass."""


@dataclass
class Teacher:
    checkpoint: Optional[str] = None
    """Run folder, checkpoint, ONNX recogniser or InsightFace pack of the frozen teacher; null: teacher.recipe's, trained if need be."""
    recipe: Optional[str] = None
    """Recipe that trains the teacher; null: this one. The student of a recipe that names a teacher, the teacher of any other."""
    epochs: Optional[float] = None
    """Passes over the training images for the teacher; null: train.epochs."""
    cache: bool = False
    """Keep the teacher's embeddings of all images and their mirror images in <out>/cache and read them in place of running it: for terms
    that need its embedding alone, with data.augment=none or flip."""
    sizes: list[int] = field(default_factory=lambda: [112])
    """Pixels: input sizes askd.teach trains at; anything but 112 makes it a baseline."""


@dataclass
class Baseline:
    enabled: bool = False
    """Also train the student's network without a teacher, under the same data, seed and schedule, to compare with."""


@dataclass
class Debug:
    anomaly: bool = False
    """Name the module that first makes a non-finite number, forward or (not with fp16) backward: slow, and not with compile."""


@dataclass
class Recipe:
    name: str = MISSING
    """Name of the run folder: runs/<name>."""
    seed: int = 0
    """Seed of weights, order, flips, sizes and dropout."""
    out: str = "runs"
    """Folder under which run folders lie."""
    device: Device = Device.auto
    """auto takes CUDA where there is one."""
    precision: Precision = Precision.auto
    """Arithmetic of the trunk; auto takes bf16 where the machine computes it."""
    compile: Optional[bool] = None
    """torch.compile trunk, teacher and terms: minutes at the start, faster steps. null: on CUDA where Triton and a C compiler are there, not
    on a CPU, where true needs a C++ compiler."""
    resume: Resume = Resume.auto
    """auto goes on from the newest checkpoint of the same recipe; never starts anew, and refuses to overwrite."""
    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    head: Head = field(default_factory=Head)
    distill: Distill = field(default_factory=Distill)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    teacher: Teacher = field(default_factory=Teacher)
    baseline: Baseline = field(default_factory=Baseline)
    debug: Debug = field(default_factory=Debug)
    after: list[After] = field(default_factory=list)
    """Verbs to run when training is done: benchmark, export."""
