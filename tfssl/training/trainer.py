"""The Trainer: one training step for every method, from a list of terms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
import keras
import tensorflow as tf

from tfssl import distribute, randomness
from tfssl.training import collapse
from tfssl.training.loss_scale import agreed, loss_scaled
from tfssl.training.network import Network
from tfssl.training.parts import in_turn
from tfssl.training.passes import Detached, Passes
from tfssl.training.term import Term
from tfssl.types import Batch, LossFn, UserError


@gin.register(module="tfssl.training")
class Trainer(keras.Model):
    """A backbone, the heads of its terms, and the step that trains them.

    Build it inside the strategy's scope, compile it with an optimizer, and run
    `strategy.run(trainer.train_step, (batch,))`.

    Args:
      backbone: Functional model, images [b, h, w, c] in [0, 1] to features [b, d].
      num_classes: k, the classes of the data set.
      terms: What is minimised, see `Term`.
      attack: `attack(loss_fn, inputs, seed)`; needed if a term names an example.
      one_pass: Send the inputs of all terms through the network as one batch, so that
        BatchNorm sees them together; otherwise each distinct input is a pass.
      dual_batch_norm: Give clean input a BatchNorm of its own (Xie 2020, "Adversarial
        examples improve image recognition"; ACL). That of the terms with an example is
        exported and validated.
      ema_decay: If given, keep an average of all weights and BatchNorm statistics,
        average = decay * average + (1 - decay) * value after each step; it is what is
        validated and exported.
      precision: What the backbone computes in, 'float32', 'bfloat16' or 'float16', see
        `tfssl.training.network`. What is exported and validated is float32.
      micro_batches: Parts, one after another, in which the backbone and the attack get
        the examples of a replica, so that less memory is needed; BatchNorm normalises
        each by itself.
      jit_attack: Compile with XLA what attacks need of the backbone; not if they have
        BatchNorm in training mode.

    Raises:
      UserError: Terms and attack do not fit together, or a setting is out of range.
    """

    def __init__(
        self,
        backbone: keras.Model,
        num_classes: int,
        terms: Sequence[Term],
        attack: Any = None,
        one_pass: bool = False,
        dual_batch_norm: bool = False,
        ema_decay: float | None = None,
        precision: str = "float32",
        micro_batches: int = 1,
        jit_attack: bool = False,
    ):
        super().__init__(name="trainer")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise UserError(f"ema_decay must be in [0, 1), not {ema_decay!r}")
        if one_pass and any(term.objective.pipeline_views for term in terms):
            raise UserError(
                "one_pass sends whole images through the network as one batch: methods"
                " that compare views have passes of their own"
            )
        if one_pass and (dual_batch_norm or micro_batches != 1):
            raise UserError(
                "one_pass normalises all inputs together: no dual BatchNorm, and no"
                " micro_batches"
            )
        self.backbone = backbone
        how = (precision, micro_batches)
        self._network = Network(backbone, *how, attack is not None, jit_attack)
        self._clean_network = self._network
        self.dual_batch_norm = dual_batch_norm
        if dual_batch_norm:
            self.clean_backbone = _twin(backbone)
            self._clean_network = Network(self.clean_backbone, *how, attacked=False)
        self.precision = precision
        self.micro_batches = micro_batches
        self.attack = attack
        self.one_pass = one_pass
        self.ema_decay = ema_decay
        self.terms = _named(terms, attack)
        # Of the whole run; what has a schedule of its own is at its start until set.
        self.last_step: int | None = None

        self.classifier = None
        dim = backbone.output_shape[-1]
        if any(term.objective.classifies for term in terms):
            features = keras.Input((dim,), name="features")
            logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")
            self.classifier = keras.Model(features, logits(features), name="classifier")
        # Terms may share an objective: one head, on clean and on attacked input.
        self.objectives = list({id(t.objective): t.objective for t in terms}.values())
        for objective in self.objectives:
            objective.build(dim, num_classes)
            objective.follow(self._network)
            if objective.state and sum(t.objective is objective for t in terms) > 1:
                raise UserError(
                    f"{objective.name} has a teacher, a queue or a centre, which two"
                    " terms would both move: it can be in one term only"
                )
        self.heads = [o.head for o in self.objectives if o.head is not None]
        if ema_decay is not None:
            self.averages = [
                distribute.state(v.value, f"average/{v.path}") for v in self._averaged()
            ]
        self.built = True

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Sets the optimizer; in float16 its losses are scaled.

        Not if none of the backbone is trained: then no gradient is in float16, and none
        could ever overflow.
        """
        self._scales = self.precision == "float16" and self.backbone.trainable_variables
        if self._scales:
            optimizer = loss_scaled(optimizer)
        super().compile(optimizer=optimizer)

    def exported(self) -> keras.Model:
        """A plain functional model, image to logits, or to features if no term
        classifies. It shares its weights with the trainer."""
        if self.classifier is None:
            return keras.Model(
                self.backbone.input, self.backbone.output, name="encoder"
            )
        # The Dense layer itself, not the model around it: the result is flat, so that
        # its layers can be found by name.
        logits = self.classifier.get_layer("logits")(self.backbone.output)
        return keras.Model(self.backbone.input, logits, name="classifier")

    def train_step(self, batch: Batch) -> dict[str, tf.Tensor]:
        """One update. Returns this replica's share of each logged number."""
        self._check_sizes(batch)
        batch = {**batch, "progress": self._progress()}
        views = self._views(batch, self._examples(batch))
        passes = Passes(self._network, self.classifier, True, updates=True)
        clean = passes
        if self.dual_batch_norm:
            clean = Passes(self._clean_network, self.classifier, True, updates=True)
        probe = Detached(Passes(self._network, self.classifier, False, updates=True))
        logs = {}
        with tf.GradientTape() as tape:
            if self.one_pass:
                passes.together(
                    tf.nest.flatten(
                        [v for n, v in views.items() if self.terms[n].weighs]
                    )
                )
            total = 0.0
            for name, term in self.terms.items():
                objective = term.objective
                forward = passes if term.example else clean
                weight = term.weight(batch["progress"])
                if not term.weighs:
                    if objective.head is None:
                        continue
                    weight, forward = 1.0, probe
                loss = objective.loss(forward, views[name], batch)
                loss = distribute.mean(tf.cast(loss, tf.float32))
                total += weight * loss
                logs[f"loss/{name}"] = loss
                accuracy = objective.accuracy(forward, views[name], batch)
                if accuracy is not None:
                    logs[f"accuracy/{name}"] = distribute.mean(accuracy)
                for key, value in objective.statistics(forward).items():
                    logs[f"{key}/{name}"] = distribute.mean(value)
                if objective.name in forward.notes:
                    embeddings = forward.notes[objective.name]
                    everyone = tf.stop_gradient(distribute.gather(embeddings))
                    for watch in (collapse.spread, collapse.effective_rank):
                        share = watch(everyone) / distribute.replicas()
                        logs[f"{watch.__name__}/{name}"] = share
            scaled = self.optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, self.trainable_variables)
        trained = [
            (gradient, variable)
            for gradient, variable in zip(
                gradients, self.trainable_variables, strict=True
            )
            if gradient is not None
        ]
        if self._scales:
            gradients, variables = zip(*trained, strict=True)
            trained = zip(agreed(gradients), variables, strict=True)
            scale = tf.convert_to_tensor(self.optimizer.dynamic_scale)
            logs["loss_scale"] = scale / distribute.replicas()
        self.optimizer.apply_gradients(trained)
        for objective in self.objectives:
            objective.after_step(self._progress())  # The optimizer has counted.
        if self.ema_decay is not None:
            self._average()
        return {"loss": total, **logs}

    def _check_sizes(self, batch: Batch) -> None:
        """Raises UserError if the network cannot take the pipeline's views."""
        takes = self.backbone.input_shape[1:3]
        for views in ("views", "local_views"):
            if views in batch and None not in takes:
                made = tuple(batch[views].shape[-3:-1])
                if made != takes:
                    raise UserError(
                        f"the {views} are {made} pixels and the network takes {takes}:"
                        " RandomResizedCrop.size says how large they are; a network"
                        " for several sizes is models/resnet18_any_size.gin"
                    )

    def _progress(self) -> tf.Tensor:
        """The share of the run that is done."""
        if self.last_step is None:
            return tf.constant(0.0)
        step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.float32)
        return step / self.last_step

    def _examples(self, batch: Batch) -> dict[str, Any]:
        """Finds the adversarial examples: name to image, or {term: views} under it."""
        examples = {}
        for example in {t.example: None for t in self.terms.values() if t.example}:
            terms = {
                name: term
                for name, term in self.terms.items()
                if term.example == example
            }
            gathers = any(term.objective.gathers for term in terms.values())
            training = getattr(self.attack, "batch_norm", "inference") == "training"
            whole = gathers or training
            talks = gathers and distribute.replicas() > 1

            def search(batch, terms=terms, example=example, whole=whole, talks=talks):
                loss_fn, inputs = self._attacked(terms, batch, whole)
                seed = randomness.fold(batch["seed"], f"attack/{example}")
                return self.attack(loss_fn, inputs, seed, unrolled=talks)

            parts = 1 if whole else self.micro_batches
            examples[example] = in_turn(search, batch, parts)
        return examples

    def _attacked(
        self, terms: Mapping[str, Term], batch: Batch, whole: bool
    ) -> tuple[LossFn, dict[str, tf.Tensor]]:
        """The loss that an example maximises, and the inputs it starts from."""
        maximised = {name: t for name, t in terms.items() if t.attack_weight}
        inputs = {}
        if any(term.perturb == "image" for term in terms.values()):
            inputs["image"] = batch["image"]
        for name, term in terms.items():
            if term.perturb == "views":
                inputs[name] = term.objective.views(batch["image"], batch)

        training = getattr(self.attack, "batch_norm", "inference") == "training"
        network = self._network.for_attack(training, whole)
        constant = batch
        for name, term in maximised.items():
            views = _look(name, term, inputs, batch)
            passes = Passes(network, self.classifier, training)
            constant = term.objective.before_attack(passes, views, constant)

        def loss_fn(perturbed):
            passes = Passes(network, self.classifier, training)
            views = {n: _look(n, t, perturbed, constant) for n, t in maximised.items()}
            if self.one_pass:
                passes.together(tf.nest.flatten(list(views.values())))
            return tf.add_n(
                [
                    term.attack_weight
                    * term.objective.attack_loss(passes, views[name], constant)
                    for name, term in maximised.items()
                ]
            )

        return loss_fn, inputs

    def _views(self, batch: Batch, examples: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """What each term looks at in the update."""
        clean = {"image": batch["image"]}
        views = {}
        for name, term in self.terms.items():
            inputs = examples[term.example] if term.example else clean
            views[name] = _look(name, term, inputs, batch)
        return views

    def _averaged(self) -> list:
        """The variables that the exported model is made of."""
        parts = [self.backbone, self.classifier] if self.classifier else [self.backbone]
        return [variable for part in parts for variable in part.weights]

    def _average(self) -> None:
        for average, variable in zip(self.averages, self._averaged(), strict=True):
            change = tf.convert_to_tensor(variable) - average
            average.assign_add((1 - self.ema_decay) * change)

    def restart_averages(self) -> None:
        """Sets the averages, if there are any, to the weights as they are."""
        if self.ema_decay is not None:
            for average, variable in zip(self.averages, self._averaged(), strict=True):
                average.assign(tf.convert_to_tensor(variable))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Puts the averages in place of the weights for a while, if there are any."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        if self.ema_decay is None:
            return
        for average, variable in zip(self.averages, self._averaged(), strict=True):
            value = variable.numpy()
            variable.assign(average.numpy())
            average.assign(value)


def _twin(network: keras.Model) -> keras.Model:
    """The same network, but for BatchNorm layers of its own."""

    def clone(layer):
        if not isinstance(layer, keras.layers.BatchNormalization):
            return layer
        config = layer.get_config()
        mine = type(layer).from_config(config | {"name": f"{layer.name}_clean"})
        mine.build(layer.input.shape)
        mine.set_weights(layer.get_weights())  # Of a network that is trained already.
        return mine

    return keras.models.clone_model(network, clone_function=clone)


def _look(name: str, term: Term, inputs: Mapping[str, Any], batch: Batch) -> tf.Tensor:
    if term.perturb == "views" and name in inputs:
        return inputs[name]
    return term.objective.views(inputs["image"], batch)


def _named(terms: Sequence[Term], attack: Any) -> dict[str, Term]:
    """Names terms by objective and, where that is not enough, by example.

    Raises:
      UserError: No term has a weight, two are alike, an example is searched for by
        nobody, or there is no attack to find it.
    """
    if not any(term.weighs for term in terms):
        raise UserError("no term has a weight: there is nothing to learn")
    count: dict[str, int] = {}
    for term in terms:
        count[term.objective.name] = count.get(term.objective.name, 0) + 1
    named = {}
    for term in terms:
        name = term.objective.name
        if count[name] > 1:
            name = f"{name}_{term.example or 'clean'}"
        if name in named:
            raise UserError(f"two terms are called {name}: join them by their weights")
        named[name] = term
    for example in {term.example for term in terms if term.example}:
        if attack is None:
            raise UserError(f"a term names the example {example!r}: set ATTACK")
        if not any(t.attack_weight for t in terms if t.example == example):
            raise UserError(
                f"no term with an attack_weight searches for the example {example!r}"
            )
    return named
