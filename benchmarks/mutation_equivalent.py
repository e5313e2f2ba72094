"""Mutants that behave as the module does, by module and name, each with the reason; `mutation` leaves them out."""

_CLAIMS = "self._claims = [{j for j in self._open if n and shares[j] %s} for n in self._groups_left]"

EQUIVALENT: dict[str, dict[str, str]] = {
    "metrics": {
        **{
            f"{function}: truth, {name} = (np.asarray(targets) > 0.5, {rest}) -> "
            f"truth, {name} = (np.asarray(targets) >= 0.5, {rest})": "targets are 0 or 1"
            for function, name, rest in (
                ("multi_label_metrics", "predicted", "decide(probabilities, thresholds)"),
                ("per_class_multi_label", "predicted", "decide(probabilities, thresholds)"),
                ("fit_thresholds", "probabilities", "np.asarray(probabilities, np.float64)"),
            )
        },
        "_best_threshold: f1 = 2 * tp / (np.arange(len(tp)) + tp[-1]) -> "
        "f1 = 3 * tp / (np.arange(len(tp)) + tp[-1])": "only where it is largest matters",
        "_best_threshold: ranked = np.concatenate([[1.0], probabilities[order], [0.0]]) -> "
        "ranked = np.concatenate([[2.0], probabilities[order], [0.0]])": "a threshold above every image has an F1 of 0",
        "_best_threshold: usable = (upper > lower) & (middle > 0) & (middle < 1) -> "
        "usable = (upper > lower) & (middle >= 0) & (middle < 1)": "a number above another that is no less than 0",
        "fit_thresholds: pooled = 0.5 if can_fit.all() else _best_threshold(truth.ravel(), probabilities.ravel()) -> "
        "pooled = 1.5 if can_fit.all() else _best_threshold(truth.ravel(), probabilities.ravel())": "not used then",
        "limit_table: level[np.argsort(brightness, kind='stable')] = "
        "np.arange(len(labels)) * n_levels // max(1, len(labels)) -> "
        "level[np.argsort(brightness, kind='stable')] = np.arange(len(labels)) * n_levels // max(2, len(labels))": (
            "a single image has the level 0 // n"
        ),
    },
    "save_non_multi_gpu_model": {
        "tabulate: width = max((len(source) for source, _, _ in rows), default=0) -> "
        "width = max((len(source) for source, _, _ in rows), default=1)": "no row is as wide as that",
        "save_plain: of_weights = np.max([_largest(a, b.values) for a, b in zip(written, plain.arrays, strict=True)], "
        "initial=0.0) -> of_weights = np.max([_largest(a, b.values) for a, b in zip(written, plain.arrays, "
        "strict=False)], initial=0.0)": "a model read back has as many variables as the one written",
        "save_plain: difference = np.max([_largest(a, b) for a, b in zip(predicted, expected, strict=True)]) -> "
        "difference = np.max([_largest(a, b) for a, b in zip(predicted, expected, strict=False)])": (
            "their shapes, and so their number, have been compared"
        ),
        "save_plain: if not (of_weights <= 0 and difference <= TOLERANCE): -> "
        "if not (of_weights <= 0 and difference < TOLERANCE):": "no difference is 1e-4 to the last bit",
        "_draw: rng = np.random.default_rng(0) -> rng = np.random.default_rng(1)": "any images do",
        "_predict: outputs = model.predict_on_batch(images if len(images) > 1 else images[0]) -> "
        "outputs = model.predict_on_batch(images if len(images) >= 1 else images[0])": (
            "Keras takes a list of one as that one, with a warning for some models"
        ),
    },
    "splits": {
        "_Hand.__init__: "
        + " -> ".join(_CLAIMS % f"{sign} ranked[min(n, len(shares)) - 1] - 1e-09" for sign in (">=", ">")): (
            "no share is less than another by 1e-9 to the last bit"
        ),
        "_Hand.__init__: self.dealt = np.full(len(sizes), -1) -> self.dealt = np.full(len(sizes), -2)": (
            "asked only whether it is below 0"
        ),
        "_Hand.__init__: self._wanted = np.round(shares[:, None] * self.n_left, 9).T.tolist() -> "
        "self._wanted = np.round(shares[:, None] * self.n_left, 10).T.tolist()": (
            "what is rounded away is some 1e-13, what differs at least some 1e-3"
        ),
        "_deal_out: strata = np.where(several, -1, codes[first]) -> strata = np.where(several, -2, codes[first])": (
            "any number that is no code of a label, and is below them all"
        ),
        "_one_hot: return codes[:, None] == np.arange(codes.max() + 1) -> "
        "return codes[:, None] == np.arange(codes.max() + 2)": "columns without an image are dropped by the caller",
        "_split_counts: if len(fractions) != 3 or min(fractions) < 0 or (not abs(sum(fractions) - 1) <= 1e-06): -> "
        "if len(fractions) != 3 or min(fractions) < 0 or (not abs(sum(fractions) - 1) < 1e-06):": (
            "no sum is off by 1e-6 to the last bit"
        ),
        "_stratify: label = np.where(hand.n_left > 0, hand.n_left, hand.n_left.max() + 1).argmin() -> "
        "label = np.where(hand.n_left > 0, hand.n_left, hand.n_left.max() + 2).argmin()": "any number above them all",
        "_whole_counts: counts = np.floor(shares * n + 1e-09).astype(int) -> "
        "counts = np.floor(shares * n - 1e-09).astype(int)": "a whole number loses all of 1 and gets it back first",
    },
}
