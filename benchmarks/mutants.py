"""Which planted defects the tests notice: each changes one line of a copy of the package, and a test must fail.

    python benchmarks/mutants.py [--only WORD ...] [--json benchmarks/results/mutants.json]

A mutant is a defect that somebody could write: another teacher, another set, another sign.  Its line names the file,
the text that stands there, the text that is put in its place, and the tests that are asked (all of them in one process,
until the first failure).  A mutant that no test notices is printed as SURVIVED, and the exit status is 1.  A text that
is no longer there once is an error: put the mutant right.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """A defect.  file: below src/limbeck.  before, after: a text that occurs there once, and what takes its place."""

    name: str
    file: str
    before: str
    after: str
    tests: str


_SCHEMES = "tests/schemes/test_"
_WHO = _SCHEMES + "who_teaches_whom.py"
_NOISY, _EARLY = _SCHEMES + "noisy_student.py", _SCHEMES + "early_stopping.py"
_OWN, _DEFENSIVE, _SPECIALISTS = (_SCHEMES + f"{name}.py" for name in ("own_teacher", "defensive", "specialists"))
_TRAINING = "tests/unit/test_training.py tests/unit/test_training_settings.py tests/unit/test_training_safety.py"
_CRD, _LAYERS = "tests/unit/test_crd.py", "tests/unit/test_layer_methods.py"
_FOREIGN = "tests/unit/test_foreign_data.py"
_SELECTION = "tests/unit/test_selection.py"
_PAPERS = "tests/papers/test_table.py tests/papers/test_runner.py tests/papers/test_recorded.py"
_GIVEN, _WEIGHTS = "tests/unit/test_given_teachers.py", "tests/unit/test_weights_of_others.py"
_FEATURES, _METHODS_ON_LAYERS = "tests/unit/test_feature_losses.py", "tests/unit/test_feature_methods.py"
_LOW_RANK, _COMPRESS = "tests/compress/test_low_rank.py", _SCHEMES + "compress.py"
_ESTIMATES = "tests/unit/test_intervals.py tests/unit/test_paired.py"

NAMED = [
    Mutant(
        "noisy student: soft pseudo-labels rolled by one sample",
        "schemes/noisy_student.py",
        "StoredTeacher(logits, transfer",
        "StoredTeacher(logits.roll(1, 0), transfer",
        _WHO,
    ),
    Mutant(
        "noisy student: hard pseudo-labels shifted by one class",
        "schemes/noisy_student.py",
        "ArrayTeacher.of_labels(classes, transfer",
        "ArrayTeacher.of_labels((classes + 1) % transfer.classes, transfer",
        _WHO,
    ),
    Mutant(
        "noisy student: the first teacher labels every iteration",
        "schemes/noisy_student.py",
        "            teacher = models[role]\n",
        "",
        _WHO,
    ),
    Mutant(
        "early stopping: the teacher's epoch is chosen on the test set",
        "schemes/early_stopping.py",
        "evaluate(student, context.held_out)",
        "evaluate(student, context.parts.test)",
        _WHO,
    ),
    Mutant(
        "early stopping: the end is judged in train mode",
        "schemes/early_stopping.py",
        "with evaluating(self.student):",
        "with evaluating(nn.Identity()):",
        _WHO,
    ),
    Mutant(
        "early stopping: the share is rounded to whole epochs",
        "schemes/early_stopping.py",
        "round(self.share * training.epochs * steps)",
        "round(self.share * training.epochs) * steps",
        _WHO,
    ),
    Mutant(
        "own teacher: the deepest feature is not detached",
        "schemes/own_teacher.py",
        "features[DEEPEST].detach()",
        "features[DEEPEST]",
        _WHO,
    ),
    Mutant(
        "own teacher: the exit's feature is detached instead",
        "schemes/own_teacher.py",
        "features[self.leave]",
        "features[self.leave].detach()",
        _WHO,
    ),
    Mutant(
        "defensive: the plain attack divides the logits by T",
        "schemes/defensive.py",
        '"distilled": attack(distilled)',
        '"distilled": attack(distilled, temperature=hot)',
        _WHO,
    ),
    Mutant(
        "specialists: groups are found on the training set",
        "schemes/specialists.py",
        "self.groups.find(generalist, context.held_out",
        "self.groups.find(generalist, context.parts.train",
        _WHO,
    ),
    Mutant("early exit: > in place of >=", "evaluation/exits.py", "sure >= threshold", "sure > threshold", _WHO),
    Mutant(
        "geometric mean: not renormalised",
        "targets/geometric.py",
        "    return normalised(\n        total,",
        "    return Dense(total) if total.isfinite().any() else normalised(\n        total,",
        _WHO,
    ),
]

OWN = [
    Mutant(
        "born again: every generation learns from the recipe's teacher",
        "schemes/born_again.py",
        "teacher = context.teach(models[role], name=role)",
        "context.teach(models[role], name=role)",
        _SCHEMES + "born_again.py",
    ),
    Mutant(
        "born again: generations share their order",
        "schemes/born_again.py",
        'context.seed if role == "distilled" else derive_seed(context.seed, role)',
        "context.seed",
        _SCHEMES + "born_again.py",
    ),
    Mutant(
        "born again: the ensemble leaves the last generation out",
        "schemes/born_again.py",
        "MeanOfModels([models[role] for role in units])",
        "MeanOfModels([models[role] for role in units[:-1]])",
        _SCHEMES + "born_again.py",
    ),
    Mutant(
        "assistants: the student learns from the teacher",
        "schemes/assistants.py",
        "teacher = context.teach(models[role], name=role)",
        "context.teach(models[role], name=role)",
        _SCHEMES + "assistants.py",
    ),
    Mutant(
        "mean teacher: the ramp falls",
        "schemes/mean_teacher.py",
        "(1 - share) ** 2",
        "share**2",
        _SCHEMES + "mean_teacher.py",
    ),
    Mutant(
        "mean teacher: the teacher is the student as it is",
        "schemes/mean_teacher.py",
        "if self._average is None:",
        "if True:",
        _SCHEMES + "mean_teacher.py",
    ),
    Mutant(
        "mean teacher: answers in train mode",
        "schemes/mean_teacher.py",
        "with evaluating(student):",
        "with evaluating(nn.Identity()):",
        _SCHEMES + "mean_teacher.py",
    ),
    Mutant(
        "noisy student: unbalanced by the least confident",
        "schemes/noisy_student.py",
        "descending=True",
        "descending=False",
        _NOISY,
    ),
    Mutant(
        "noisy student: the labelled samples are pseudo-labelled too",
        "schemes/noisy_student.py",
        "(unlabelled & (sure >= self.confidence))",
        "(sure >= self.confidence)",
        _NOISY,
    ),
    Mutant(
        "early stopping: the teacher stays one epoch longer",
        "schemes/early_stopping.py",
        "self.step = epoch * steps\n",
        "self.step = (epoch + 1) * steps\n",
        _EARLY,
    ),
    Mutant(
        "early stopping: the candidate with the most errors teaches",
        "schemes/early_stopping.py",
        "min(scored)[-1]",
        "max(scored)[-1]",
        _EARLY,
    ),
    Mutant(
        "defensive: the teacher learns at T = 1",
        "schemes/defensive.py",
        'outputs["student"].logits / self.temperature',
        'outputs["student"].logits',
        _DEFENSIVE,
    ),
    Mutant(
        "specialists: the dustbin is shifted the wrong way",
        "schemes/specialists.py",
        "shift.fill_(dustbin_shift(half.share))",
        "shift.fill_(-dustbin_shift(half.share))",
        _SPECIALISTS,
    ),
    Mutant(
        "specialists: the student of all learns from the generalist",
        "schemes/specialists.py",
        'self._student(context, "distilled", context.teach(together, name="specialists"))',
        'self._student(context, "distilled")',
        _SPECIALISTS,
    ),
    Mutant(
        "search: the candidate with the most held-out errors is kept",
        "experiment/run.py",
        "*_, best = min(scored",
        "*_, best = max(scored",
        _WHO,
    ),
    Mutant(
        "search: candidates are measured on the training set",
        "experiment/trials.py",
        "evaluate_together(model, context.held_out)",
        "evaluate_together(model, context.parts.train)",
        "tests/unit/test_schemes.py tests/unit/test_tune.py",
    ),
    Mutant(
        "outcome: measured on the training set",
        "experiment/run.py",
        "evaluate_together(found.models[role], run.final.test)",
        "evaluate_together(found.models[role], run.final.train)",
        "tests/unit/test_schemes.py",
    ),
    Mutant(
        "alone: learns from the whole transfer set, unlabelled and all",
        "experiment/run.py",
        "distiller, context.parts.alone).student}",
        "distiller, context.parts.transfer).student}",
        _WHO,
    ),
    Mutant(
        "advantage: alone less distilled",
        "results/assessment.py",
        "known = [two - one for",
        "known = [one - two for",
        "tests/cli/test_evaluate.py",
    ),
    Mutant(
        "training: the first of equal epochs gives way to the last",
        "training/state.py",
        "if score < self.best_score:",
        "if score <= self.best_score:",
        _TRAINING,
    ),
    Mutant(
        "training: patience runs an epoch longer",
        "training/loop.py",
        "run.stale >= training.patience",
        "run.stale > training.patience",
        _TRAINING,
    ),
    Mutant(
        "training: the learning rate is a step ahead",
        "training/loop.py",
        "set_rate(raw_optimizer, rate(run.step) * share)",
        "set_rate(raw_optimizer, rate(run.step + 1) * share)",
        _TRAINING,
    ),
    Mutant(
        "training: schedules are a step ahead",
        "training/loop.py",
        "loss = module(micro, run.step, counts)",
        "loss = module(micro, run.step + 1, counts)",
        _TRAINING,
    ),
    Mutant(
        "training: every epoch has the order of the first",
        "training/loop.py",
        "loader.epoch(run.epoch, start",
        "loader.epoch(0, start",
        _TRAINING,
    ),
    Mutant(
        "a dataset: its random transforms draw the same numbers in every epoch",
        "data/sources.py",
        'derive_seed(self.seed, "samples", epoch)',
        'derive_seed(self.seed, "samples")',
        _FOREIGN,
    ),
    Mutant(
        "a dataset: its content does not count in a folder",
        "data/sources.py",
        "digest.update(raw_bytes(tensor))",
        "pass",
        _FOREIGN,
    ),
    Mutant(
        "a loader: it draws from dropout's numbers",
        "data/streams.py",
        "restore_generators(own)",
        "pass",
        _FOREIGN,
    ),
    Mutant(
        "a plain network as teacher: it is frozen for good",
        "teachers/model.py",
        "freeze(model) if frozen else []",
        "freeze(model)",
        _FOREIGN,
    ),
    Mutant(
        "training: the average forgets its ramp",
        "training/averaging.py",
        "decay = min(self.decay, (1 + self.updates) / (10 + self.updates))",
        "decay = self.decay",
        _TRAINING,
    ),
    Mutant(
        "training: the best epoch is kept without its average",
        "training/state.py",
        "with self.kept_weights():\n                    own",
        "if True:\n                    own",
        _TRAINING,
    ),
    Mutant(
        "training: the objective decides no address",
        "training/identity.py",
        '        "objective.content": " ".join(network_digests(distiller.objective, "objective", mend).values()),\n',
        "",
        "tests/unit/test_trained.py",
    ),
    Mutant(
        "training: weights along the way are believed whatever they are of",
        "training/trained.py",
        '    require_same(ended.get("identity", {}), identity, folder / RESULT)\n',
        "",
        "tests/unit/test_trained.py",
    ),
    Mutant(
        "training: the cache is believed whoever wrote it",
        "training/trained.py",
        "    require_own(folder, root)\n",
        "",
        "tests/unit/test_trained.py tests/faults/test_cache.py",
    ),
    Mutant(
        "training: a resumed run draws other dropout",
        "training/state.py",
        '        self._restore_generators(_under(tensors, "generator."))\n',
        "",
        "tests/unit/test_checkpoints.py tests/faults/test_resume.py",
    ),
    Mutant(
        "weights: what a pickle names is run",
        "training/weight_files.py",
        "weights_only=True, mmap",
        "weights_only=False, mmap",
        _WEIGHTS,
    ),
    Mutant(
        "weights: shards are read from anywhere",
        "training/weight_files.py",
        "if Path(shard).name != shard",
        "if not shard",
        _WEIGHTS,
    ),
    Mutant(
        "given teachers: random weights teach",
        "config/teachers.py",
        "if spec.factory is None and spec.weights_from is None:",
        "if not spec:",
        _GIVEN,
    ),
    Mutant(
        "given teachers: trained again all the same",
        "config/teachers.py",
        "return self.network and not self.given",
        "return self.network",
        _GIVEN,
    ),
    Mutant(
        "given teachers: the data's normalisation stays under the teacher's",
        "models/layers/transformed_input.py",
        "(samples.mean.cpu() - mean) / std",
        "-mean / std",
        _GIVEN,
    ),
    Mutant(
        "given teachers: images are resized without antialiasing",
        "models/layers/transformed_input.py",
        "antialias=True)",
        "antialias=False)",
        _GIVEN,
    ),
    Mutant(
        "tasks: each label of a multi-label example counts as an example",
        "tasks/classes.py",
        "return places.any(-1).sum()",
        "return places.sum()",
        "tests/unit/test_tasks.py",
    ),
    Mutant(
        "tasks: the wrong places of a dense task are taken for independent examples",
        "evaluation/summed.py",
        '    errors = "wrong places"\n    by_example = False\n',
        '    errors = "wrong places"\n',
        "tests/unit/test_standing.py tests/unit/test_report_tasks.py",
    ),
    Mutant(
        "results: a t-interval with n degrees of freedom",
        "evaluation/intervals.py",
        "t.ppf(0.5 + confidence / 2.0, n - 1)",
        "t.ppf(0.5 + confidence / 2.0, n)",
        _ESTIMATES,
    ),
    Mutant(
        "results: gained and harmed change places",
        "evaluation/paired.py",
        "gained, harmed = total(difference.clamp_min(0)), total(-difference.clamp_max(0))",
        "harmed, gained = total(difference.clamp_min(0)), total(-difference.clamp_max(0))",
        _ESTIMATES,
    ),
    Mutant(
        "data: the first samples are those after the first",
        "data/selection.py",
        "train = train.subset(torch.arange(self.first))",
        "train = train.subset(1 + torch.arange(self.first - 1))",
        _SELECTION,
    ),
    Mutant(
        "data: the part that is held out is at the other end",
        "data/selection.py",
        'border = count if self.place == "first" else size - count',
        'border = count if self.place == "last" else size - count',
        _SELECTION,
    ),
    Mutant(
        "data: an other view is the student's own",
        "data/sample_set.py",
        'seed=derive_seed(seed, "other view")',
        "seed=seed",
        _SELECTION,
    ),
    Mutant(
        "data: a teacher learns from all samples, whatever its part",
        "experiment/parts.py",
        "return parts if parts.teacher_part is None else replace(parts, train=parts.teacher_part)",
        "return parts",
        _SELECTION,
    ),
    Mutant(
        "ranking: a large λ teaches the first item alone",
        "losses/ranking.py",
        "torch.exp(-place / decay)",
        "torch.exp(-place * decay)",
        "tests/unit/test_ranking_losses.py",
    ),
    Mutant(
        "ranking: the student's places count from 1, and the teacher's from 0",
        "losses/ranking.py",
        "torch.tanh(mu * (estimated - place)",
        "torch.tanh(mu * (estimated + 1 - place)",
        "tests/unit/test_ranking_losses.py",
    ),
    Mutant(
        "ranking: of equal scores the last item comes first",
        "evaluation/ranking.py",
        "device=logits.device) < item[tied, None]",
        "device=logits.device) > item[tied, None]",
        "tests/unit/test_ranking_metrics.py",
    ),
    Mutant(
        "ranking: a user's only item is held out",
        "data/interactions.py",
        "torch.minimum(wanted, counts - 1)",
        "torch.minimum(wanted, counts)",
        "tests/unit/test_interactions.py",
    ),
    Mutant(
        "ranking: items known before are found again",
        "data/interactions.py",
        "before = torch.cat([known, rest], 1)",
        "before = rest",
        "tests/unit/test_interactions.py",
    ),
    Mutant(
        "ranking: items that a user took are taught as the teacher's first ones",
        "methods/ranking_distillation.py",
        "known=None if batch.labels is None else _taken(batch)",
        "known=None",
        "tests/unit/test_ranking_distillation.py",
    ),
    Mutant(
        "data: wrong labels are in the held-out part as well",
        "experiment/parts.py",
        "train = recipe.selection.noisy(train)",
        "train, held_out = (None if part is None else recipe.selection.noisy(part) for part in (train, held_out))",
        _SELECTION,
    ),
    Mutant(
        "teachers: selection adds the member that harms most",
        "teachers/mean.py",
        "best = wrong.index(min(wrong))",
        "best = wrong.index(max(wrong))",
        _SELECTION,
    ),
    Mutant(
        "experiment: a candidate that diverges ends the search",
        "experiment/trials.py",
        "                    except NonFiniteLossError as error:",
        "                    except ZeroDivisionError as error:",
        _SELECTION,
    ),
    Mutant(
        "papers: a row is set against itself",
        "papers/measures.py",
        "view = self if other.row is None else self.beside(other.row)",
        "view = self",
        _PAPERS,
    ),
    Mutant(
        "papers: a choice is made at the seed that is asked for",
        "experiment/run.py",
        "        return self.recipe.seeds[0]",
        "        return self.recipe.seeds[-1]",
        _PAPERS,
    ),
    Mutant(
        "papers: kept figures are read whatever the table asks now",
        "papers/runner.py",
        '"table": self.table.text, ',
        "",
        _PAPERS,
    ),
    Mutant(
        "networks: cnn pools what its ReLU gives",
        "models/cnn.py",
        "[nn.MaxPool2d(2), nn.ReLU()]",
        "[nn.ReLU(), nn.MaxPool2d(2)]",
        "tests/contract/test_models.py",
    ),
    Mutant(
        "networks: a pre-activation of wrn is rectified",
        "models/wrn.py",
        '"stage3": "neck.0"',
        '"stage3": "neck.1"',
        "tests/contract/test_models.py",
    ),
    Mutant(
        "stored teacher: features of a recipe are stored whatever their size",
        "experiment/teacher.py",
        "feature_bytes(teacher, samples, taps) <= feature_limit()",
        "feature_bytes(teacher, samples, taps) > 0",
        "tests/unit/test_stored.py",
    ),
    Mutant(
        "stored teacher: features are of the next sample",
        "teachers/stored.py",
        "torch.cat([answer.features[name] for answer in answers])",
        "torch.cat([answer.features[name] for answer in answers]).roll(1, 0)",
        "tests/unit/test_stored.py",
    ),
    Mutant(
        "layers: blocks are paired from the first on",
        "experiment/layers.py",
        "[math.ceil((place + 1) * len(each) / count) - 1 for place in range(count)]",
        "[place for place in range(count)]",
        "tests/cli/test_layers.py",
    ),
    Mutant(
        "papers: seeds of another recipe join",
        "papers/recorded.py",
        'if ours.get("recipe") == digest and not ours.get("former")',
        'if not ours.get("former")',
        _PAPERS,
    ),
    Mutant(
        "papers: the budget is on top of the row",
        "papers/table.py",
        'layers = [{"set": {}, "budgets": keys["budgets"]}, shared, row]',
        'layers = [shared, row, {"set": {}, "budgets": keys["budgets"]}]',
        _PAPERS,
    ),
    Mutant(
        "layers: RKD's mean distance counts an example's distance to itself",
        "losses/relations.py",
        "mean = found.sum() / (len(rows) * (len(rows) - 1))",
        "mean = found.sum() / (len(rows) * len(rows))",
        _FEATURES,
    ),
    Mutant(
        "layers: OFD's partial loss on the wrong side of the target",
        "losses/boundaries.py",
        "free = (student <= target) & (target <= 0)",
        "free = (student >= target) & (target <= 0)",
        _FEATURES,
    ),
    Mutant(
        "layers: all layers of AB weigh alike",
        "methods/activation_boundary.py",
        "* 2.0 ** (number + 1 - len(self.layers))",
        "* 1.0",
        _METHODS_ON_LAYERS,
    ),
    Mutant(
        "layers: weight decay shrinks VID's variances",
        "methods/vid.py",
        'without_decay = ("scale",)',
        "without_decay = ()",
        _METHODS_ON_LAYERS,
    ),
    Mutant(
        "layers: CC's embedding of the teacher is learned",
        "methods/correlation_congruence.py",
        "other.requires_grad_(False)",
        "other",
        _METHODS_ON_LAYERS,
    ),
    Mutant(
        "hints: the first stage trains the whole student",
        "schemes/hints.py",
        "part = self.trainable or _reached(distiller.student, distiller.objective, samples)",
        "part = self.trainable or None",
        _SCHEMES + "hints.py",
    ),
    Mutant(
        "hints: the first stage has the length of the second",
        "schemes/hints.py",
        "samples, self._first(context.training), context)",
        "samples, context.training, context)",
        _SCHEMES + "hints.py",
    ),
    Mutant(
        "crd: a loaded bank keeps another's rows",
        "methods/crd.py",
        "        self._pending = None\n        super()._load",
        "        super()._load",
        _CRD,
    ),
    Mutant(
        "crd: a saved bank lacks the last rows",
        "methods/crd.py",
        "        self.write()\n        super()._save",
        "        super()._save",
        _CRD,
    ),
    Mutant("crd: of a sample twice the first row is written", "methods/crd.py", '"amax"', '"amin"', _CRD),
    Mutant("crd: negatives of the own class", "methods/crd.py", "(groups != group)", "(groups != -5)", _CRD),
    Mutant("crd: a constant for each batch", "methods/crd.py", "if not bool(self.constants.all()):", "if True:", _CRD),
    Mutant(
        "crd: each process writes its own rows",
        "methods/crd.py",
        "[ranks.all_rows(each) for each in (rows, *detached)]",
        "[rows, *detached]",
        _CRD,
    ),
    Mutant(
        "crd: the banks do not cross",
        "methods/crd.py",
        "zip(embeddings, reversed(banks), strict=True)",
        "zip(embeddings, banks, strict=True)",
        _CRD,
    ),
    Mutant("mgd: one mask for all layers", "methods/mgd.py", 'f"mask {number}"', '"mask"', _LAYERS),
    Mutant("review_kd: no review of deeper layers", "methods/review_kd.py", "own * x + other * deeper", "x", _LAYERS),
    Mutant(
        "input_gradient: full is a mean",
        "methods/input_gradient.py",
        '"sum" if self.of == "full" else "mean"',
        '"mean"',
        _LAYERS,
    ),
    Mutant(
        "bss: the label's class counts as disagreement",
        "methods/bss.py",
        ".scatter(1, labels[:, None], 0.0).square()",
        ".square()",
        _LAYERS,
    ),
    Mutant(
        "graft: the teacher's classifier learns",
        "models/layers/grafted.py",
        "        self.classifier.requires_grad_(False)\n",
        "",
        "tests/unit/test_graft.py",
    ),
    Mutant(
        "optimizer: a momentum that is no start",
        "training/optimizers.py",
        "torch.zeros_like(parameter)",
        "torch.ones_like(parameter)",
        _TRAINING,
    ),
    Mutant(
        "compression: factors of which only the left one has the root of σ",
        "compress/factors.py",
        "return left * root, root[:, None] * right",
        "return left * values, right",
        _LOW_RANK,
    ),
    Mutant(
        "compression: signs of factors as the machine gives them",
        "compress/factors.py",
        "return (left * signs)[:, :rank], values[:rank], (signs[:, None] * right)[:rank]",
        "return left[:, :rank], values[:rank], right[:rank]",
        _LOW_RANK,
    ),
    Mutant(
        "compression: frequencies weigh rows without their root",
        "compress/factors.py",
        "root = (given / given.mean()).sqrt()[:, None]",
        "root = (given / given.mean())[:, None]",
        _LOW_RANK,
    ),
    Mutant(
        "compression: inputs weigh the wrong side",
        "compress/factors.py",
        "_decomposed(weights @ root, rank)",
        "_decomposed(weights @ inverse, rank)",
        _LOW_RANK,
    ),
    Mutant(
        "compression: a rank at its bound is accepted",
        "compress/low_rank.py",
        "if rank >= bound:",
        "if rank > 2 * bound:",
        _LOW_RANK,
    ),
    Mutant(
        "compression: a tied matrix gets factors of its own at each place",
        "compress/low_rank.py",
        "if first is not new:",
        "if False:",
        _LOW_RANK,
    ),
    Mutant(
        "compression: a transform changes the given network",
        "compress/transform.py",
        "self.change(deepcopy(model), statistics, seed)",
        "self.change(model, statistics, seed)",
        _LOW_RANK,
    ),
    Mutant(
        "compression: padding counts as an input",
        "compress/statistics.py",
        "given = given[padding]",
        "given = given[padding | True]",
        _LOW_RANK,
    ),
    Mutant(
        "compression: an LSTM's two biases become one of them",
        "compress/low_rank.py",
        'getattr(old, f"bias_ih_l{layer}").double() + getattr(old, f"bias_hh_l{layer}").double()',
        'getattr(old, f"bias_ih_l{layer}").double()',
        _LOW_RANK,
    ),
    Mutant(
        "compression: the owner's weights lose",
        "compress/share.py",
        "register_parameter(name, model.get_parameter(first))",
        "register_parameter(name, nn.Parameter(model.get_parameter(first) * 1))",
        "tests/compress/test_share.py",
    ),
    Mutant(
        "compression: the teacher of `before` is the recipe's",
        "schemes/compress.py",
        'teachers["before"] = context.teach(first, name=_FIRST)',
        'teachers["before"] = context.teacher()',
        _COMPRESS,
    ),
    Mutant(
        "compression: the network before retraining is kept after it",
        "schemes/compress.py",
        "models[before] = context.keep(before, deepcopy(smaller))",
        "models[before] = context.keep(before, smaller)",
        _COMPRESS,
    ),
    Mutant(
        "compression: bytes of masks beside the weights",
        "exporting/sizes.py",
        "small = settled(model)",
        "small = model",
        "tests/cli/test_compress.py " + _COMPRESS,
    ),
    Mutant(
        "compression: an export that answers otherwise is kept",
        "results/parity.py",
        "if self.largest is not None and not found.largest <= self.largest:",
        "if self.largest is not None and found.largest < 0:",
        "tests/cli/test_export.py",
    ),
    Mutant(
        "compression: a file of weights forgets its transforms",
        "networks.py",
        "({RECORDS: records} if records else {})",
        "{}",
        "tests/compress/test_transforms.py",
    ),
    Mutant(
        "models: numbers to predict that add up to 1 are warned of",
        "distiller.py",
        "if Need.SEVERAL_CLASSES in batch.task.meets:",
        "if True:",
        "tests/unit/test_distiller.py",
    ),
    Mutant(
        "data: digits are cached as tensors, which all sets then share",
        "data/digits.py",
        "    return images, labels\n",
        "    return torch.tensor(images).numpy(force=True), torch.tensor(labels)\n",
        "tests/unit/test_data_sources.py",
    ),
]


def main() -> None:
    """Plant each mutant in a copy of the package and run its tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="words that a mutant's name must hold")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {}
    for mutant in [*NAMED, *OWN]:
        if all(word in mutant.name for word in options.only):
            found[mutant.name] = noticed(mutant)
            print(f"{found[mutant.name] or 'SURVIVED':<9} {mutant.name}", flush=True)
    survivors = [name for name, by in found.items() if not by]
    print(f"{len(found) - len(survivors)} of {len(found)} are noticed")
    if options.json:
        content = {"mutants": len(found), "survivors": survivors, "noticed": {k: v for k, v in found.items() if v}}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    sys.exit(bool(survivors))


def noticed(mutant: Mutant) -> str | None:
    """Return the first test that fails with a mutant planted; None where none does."""
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch)
        for name in ("src", "tests", "pyproject.toml", "conftest.py", "README.md", "docs", "constraints.txt"):
            source, place = _ROOT / name, tree / name
            shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)
        file = tree / "src" / "limbeck" / mutant.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutant.before) != 1:
            sys.exit(f"{mutant.name}: found {mutant.before!r} {text.count(mutant.before)} times in {mutant.file}")
        file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        wanted = "(thorough or not slow) and not gpu and not network"
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", wanted]
        command += mutant.tests.split()
        done = subprocess.run(command, check=False, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            sys.exit(f"{mutant.name}: the tests cannot be run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0].split(" ", 1)[1] if failed else None


if __name__ == "__main__":
    main()
