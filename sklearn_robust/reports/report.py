"""The report of a classifier's robustness on given data; an l_q ball is named by its exponent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator
from sklearn.utils.validation import _check_sample_weight

import sklearn_robust
from sklearn_robust._documentation import see
from sklearn_robust._parameters import refuse_lazy
from sklearn_robust.metrics.linear_view import is_linear, linear_view, transformed, unwrapped
from sklearn_robust.proofs import Certificate, LabelledData
from sklearn_robust.reports.intervals import Interval
from sklearn_robust.reports.measuring import LinearMeasurement, network_accuracy
from sklearn_robust.reports.rendering import Block, to_html, to_json, to_markdown
from sklearn_robust.threats import ByClass, LpBall, Threat, check_is_threat, is_ball, require_ball

_MOST_FEATURES = 10
_NOT_MEASURED = (
    "Perturbations beyond the threats above, such as larger ones or those of other shapes.",
    "Data that differ from these otherwise than by such perturbations, such as later data.",
    "How the training data were collected, and whether they could be poisoned.",
)
_SUMMARY = (
    "This report is evidence: what was measured, on which data, under which threats. It is no "
    "judgement whether the classifier is fit for a use."
)


class RobustnessReport:
    r"""What the adversary does to a classifier, measured on data: figures, intervals, provenance.

    For linear classifiers every figure is the exact worst case over the threat, no attack is
    searched: the scores of two classes move against their sample by the support function of the
    set, :math:`\epsilon \|s w\|_{q^*}` for an l_q ball. For networks of this library robust
    accuracy is bounded from both sides.

    Parameters
    ----------
    estimator : fitted classifier
        A linear one, as in `robust_accuracy_score`, or a network of this library. Of a pipeline the
        adversary moves what the last step sees.
    X : array-like or sparse array of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        True labels, each one of the classifier's.
    threats : sequence of Threat, or dict of str to Threat, optional
        Sets of `sklearn_robust.threats`, or of one's own; of networks, l_q balls. By default that
        of the estimator's training. The data without perturbation are always measured too.
    groups : array-like of shape (n_samples,), optional
        A label of each sample's group: all figures are given for each group too.
    sample_weight : array-like of shape (n_samples,), optional
    certificates : sequence of Certificate, optional
        Certificates to cite, by their claim and the SHA-256 of their file.
    title : str, default="Robustness report"

    Attributes
    ----------
    content : dict
        All that the report says, as in its JSON.

    Raises
    ------
    TypeError
        If the classifier is neither linear nor a network of this library.
    ValueError
        If there is no threat, one is none, two have one name, or labels are missing.

    Notes
    -----
    Confusion matrices count a sample for its own class where no perturbation leads out of it, and
    else for the rival class with the least robust margin. Brier score and log loss are given for
    two classes, whose probability is monotone in the score. Where all samples weigh the same the
    intervals of proportions are those of Clopper and Pearson, and that of KS follows from the
    inequality of Dvoretzky, Kiefer and Wolfowitz: they cover at least as often as they say. With
    weights the effective number of samples takes the place of their number. The area under the ROC
    curve has a Clopper-Pearson interval at DeLong's variance, means of losses have bootstrap-t
    ones. Each is named. Radii are those of balls in the units of the features, and multiples of
    other sets.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.preprocessing import scale
    >>> from sklearn_robust import RobustnessReport
    >>> from sklearn_robust.threats import LpBall
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> X = scale(X)
    >>> model = LogisticRegression().fit(X, y)
    >>> report = RobustnessReport(model, X, y, threats=[LpBall(2, 0.2)])
    >>> report
    RobustnessReport(LogisticRegression, 569 samples, without adversary; l_2 ball, eps=0.2)
    >>> figures = report.content["threats"][1]["groups"]["all"]["figures"]
    >>> round(figures["AUC"]["value"], 4)
    0.994
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        X: Any,
        y: Any,
        *,
        threats: Sequence[Threat] | Mapping[str, Threat] | None = None,
        groups: Any = None,
        sample_weight: Any = None,
        certificates: Sequence[Certificate] = (),
        title: str = "Robustness report",
    ) -> None:
        refuse_lazy(X=X, y=y, sample_weight=sample_weight)
        steps, classifier = unwrapped(estimator)
        named = _named_threats(classifier, threats)
        weight = _check_sample_weight(sample_weight, np.asarray(y), ensure_non_negative=True)
        of_groups = _members(groups, weight)
        self.title = title
        if is_linear(classifier):
            data, measured = _measure_linear(estimator, X, y, weight, named, of_groups)
        elif hasattr(classifier, "robust_bounds"):
            data, measured = _measure_network(
                classifier, transformed(steps, X), y, weight, named, of_groups
            )
        else:
            raise TypeError(
                f"{type(classifier).__name__} is neither a linear classifier nor a network of this "
                "library: nothing exact is known about it. Use one of these."
                f" {see('guide/proofs')}"
            )
        not_measured = list(_NOT_MEASURED)
        if not is_linear(classifier):
            not_measured.append("Scores and probabilities of the network under attack.")
        elif len(data.classes) > 2:
            not_measured.append("Probabilities of several classes under attack.")
        self.content: dict[str, Any] = {
            "title": title,
            "estimator": repr(classifier),
            "versions": {
                "sklearn_robust": sklearn_robust.__version__,
                "scikit-learn": sklearn.__version__,
                "numpy": np.__version__,
            },
            "data": {
                "samples": len(data.y),
                "features": data.X.shape[1],
                "classes": data.classes,
                "sha256": data.digest,
                "seen by": "the last step of the pipeline" if steps else "the classifier",
                "weighted": bool(np.any(weight != weight[0])),
            },
            "threats": measured,
            "certificates": [_cited(certificate) for certificate in certificates],
            "not measured": not_measured,
        }

    def __repr__(self) -> str:
        name = self.content["estimator"].split("(")[0]
        samples = self.content["data"]["samples"]
        threats = "; ".join(threat["name"] for threat in self.content["threats"])
        return f"RobustnessReport({name}, {samples} samples, {threats})"

    def _repr_html_(self) -> str:
        return to_html(self.title, self._blocks(), page=False)

    def to_json(self) -> str:
        """The content as JSON.

        Returns
        -------
        str
            The same bytes for the same content, as of the other forms.
        """
        return to_json(self.content)

    def to_markdown(self) -> str:
        """The report as Markdown.

        Returns
        -------
        str
        """
        return to_markdown(self._blocks())

    def to_html(self) -> str:
        """The report as a page of HTML that needs no other file.

        Returns
        -------
        str
        """
        return to_html(self.title, self._blocks(), page=True)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report.

        Parameters
        ----------
        path : str or path-like
            Its suffix says how: .json, .md or .html.
        """
        forms = {".json": self.to_json, ".md": self.to_markdown, ".html": self.to_html}
        suffix = Path(path).suffix
        if suffix not in forms:
            raise ValueError(f"path must end with one of {list(forms)}, got {str(path)!r}.")
        Path(path).write_text(forms[suffix](), encoding="utf-8")

    def model_card_section(self) -> dict[str, str]:
        """The report as a section of a model card: `card.add(**report.model_card_section())` adds
        it to a card of skops.

        Returns
        -------
        dict of str to str
            The title of the section, and its text in Markdown.
        """
        return {self.title: self.to_markdown()}

    def _blocks(self) -> list[Block]:
        """The report as headings, texts, lists and tables."""
        content, data = self.content, self.content["data"]
        versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        blocks: list[Block] = [
            ("text", _SUMMARY),
            (
                "list",
                [
                    f"Classifier: {content['estimator']}",
                    f"Data: {data['samples']} samples, {data['features']} features as "
                    f"{data['seen by']} sees them, SHA-256 {data['sha256']}",
                    f"Versions: {versions}",
                    *(
                        f"Certificate: {of['claim']}, SHA-256 of its file {of['sha256']}"
                        for of in content["certificates"]
                    ),
                ],
            ),
        ]
        for threat in content["threats"]:
            blocks += [("heading", threat["name"]), *_threat_blocks(threat, data["classes"])]
        return [*blocks, ("heading", "Not measured"), ("list", content["not measured"])]


def _named_threats(
    classifier: Any, threats: Sequence[Threat] | Mapping[str, Threat] | None
) -> dict[str, Any]:
    """The threats by name, after the data without adversary."""
    if threats is None:
        trained = getattr(classifier, "threat_", None)
        if trained is None:
            raise ValueError(
                f"threats must be given: {type(classifier).__name__} was trained without one. Use "
                "for instance threats=[LpBall(2, 0.1)]."
                f" {see('guide/proofs')}"
            )
        threats = [trained]
    if not isinstance(threats, Mapping):
        for threat in threats:
            check_is_threat(threat)
        threats = _by_name(threats)
    if not threats:
        raise ValueError("threats must hold at least one threat, such as LpBall(2, 0.1), got none.")
    for threat in threats.values():
        check_is_threat(threat)
    first = next(iter(threats.values()))
    clean = LpBall(first.q, 0.0, first.scale) if is_ball(first) else LpBall(np.inf, 0.0)
    attacking = {
        name: threat
        for name, threat in threats.items()
        if not (is_ball(threat) and threat.eps == 0)
    }
    return {"without adversary": clean} | attacking


def _by_name(threats: Sequence[Threat]) -> dict[str, Threat]:
    """The threats by the names that a report gives them."""
    named: dict[str, Threat] = {}
    for threat in threats:
        name = _threat_name(threat)
        if name in named:
            raise ValueError(
                f"threats holds two of one name, {name!r}. Give names: threats={{'first': ..., "
                "'second': ...}."
            )
        named[name] = threat
    return named


def _threat_name(threat: Any) -> str:
    if not is_ball(threat):
        return " ".join(repr(threat).split())
    scaled = "" if threat.scale is None else ", scaled by feature"
    return f"l_{threat.q:g} ball, eps={threat.eps:g}{scaled}"


def _members(groups: Any, weight: np.ndarray) -> dict[str, np.ndarray]:
    """The samples of positive weight, of all and of each group, by name."""
    used = weight > 0
    members = {"all": np.flatnonzero(used)}
    if groups is None:
        return members
    groups = np.asarray(groups)
    if groups.shape != weight.shape:
        raise ValueError(
            f"groups must hold a label for each of {len(weight)} samples, got shape {groups.shape}."
        )
    for name in np.unique(groups[used]).tolist():
        members[f"group {name}"] = np.flatnonzero(used & (groups == name))
    return members


def _measure_linear(
    estimator: Any,
    X: Any,
    y: Any,
    weight: np.ndarray,
    threats: dict[str, Any],
    of_groups: dict[str, np.ndarray],
) -> tuple[LabelledData, list[dict[str, Any]]]:
    """The data as the classifier sees them, and the figures under each threat."""
    view = linear_view(estimator, X, "model")
    index = view.seen_class_index(y)
    classifier = unwrapped(estimator)[1]
    probabilities = None
    if len(view.classes) == 2 and hasattr(classifier, "predict_proba"):
        probabilities = classifier.predict_proba
    measured = []
    for name, threat in threats.items():
        bound = view.bound(threat)
        measurement = LinearMeasurement(view, index, weight, bound, probabilities)
        parts = {
            group: {
                "samples": len(members),
                "figures": _as_dicts(measurement.figures(members)),
                "confusion": measurement.confusion(members),
                "radii": measurement.radii(members),
                "features": measurement.features(members, _MOST_FEATURES),
            }
            for group, members in of_groups.items()
        }
        measured.append({"name": name, **_ball_of(threat), "groups": parts})
    return LabelledData.of(view.X, np.asarray(y), weight, view.classes), measured


def _measure_network(
    classifier: Any,
    X: Any,
    y: Any,
    weight: np.ndarray,
    threats: dict[str, Any],
    of_groups: dict[str, np.ndarray],
) -> tuple[LabelledData, list[dict[str, Any]]]:
    """The data, and the bounds on the robust accuracy under each threat."""
    if np.any(weight != weight[0]):
        raise ValueError(
            "sample_weight must be the same for all samples in a report of a network, got several."
        )
    X, y = np.asarray(X), np.asarray(y)
    measured = []
    for name, threat in threats.items():
        ball = require_ball(threat, "a report of a network", "use an LpBall")
        parts = {}
        for group, members in of_groups.items():
            certified, attacked = classifier.robust_bounds(
                X[members], y[members], eps=ball.eps, q=ball.q, scale=ball.scale
            )
            figure = network_accuracy(certified, attacked, len(members))
            figures = {"robust accuracy": figure}
            parts[group] = {"samples": len(members), "figures": _as_dicts(figures)}
        measured.append({"name": name, **_ball_of(ball), "groups": parts})
    return LabelledData.of(X, y, weight, classifier.classes_), measured


def _ball_of(threat: Any) -> dict[str, Any]:
    """The exponent of an l_q ball, None for another set, and its radius where all have one."""
    one = threat.threats[0] if isinstance(threat, ByClass) else threat
    return {
        "q": str(one.q) if isinstance(one, LpBall) else None,
        "eps": float(threat.eps) if is_ball(threat) else None,
    }


def _as_dicts(figures: dict[str, Interval]) -> dict[str, dict[str, Any]]:
    return {name: dict(vars(figure)) for name, figure in figures.items()}


def _cited(certificate: Certificate) -> dict[str, str]:
    """A certificate by its claim and the digest of its file."""
    digest = hashlib.sha256(certificate.to_json().encode()).hexdigest()
    return {"claim": repr(certificate), "sha256": digest}


def _threat_blocks(threat: dict[str, Any], classes: list[str]) -> list[Block]:
    """The tables of one threat."""
    rows = [
        [group, name, f"{of['value']:.4f}", f"{of['low']:.4f} to {of['high']:.4f}", of["name"]]
        for group, part in threat["groups"].items()
        for name, of in part["figures"].items()
    ]
    header = ["samples", "figure", "value", "95 % interval", "kind of interval"]
    blocks: list[Block] = [("table", (header, rows))]
    whole = threat["groups"]["all"]
    if "confusion" in whole:
        matrix = [
            [name, *(f"{x:g}" for x in row)]
            for name, row in zip(classes, whole["confusion"], strict=True)
        ]
        under = "predicted" if threat["eps"] == 0 else "under attack"
        blocks.append(("table", ([f"true class, {under}:", *classes], matrix)))
    if "radii" in whole:
        rows = [[name, radius] for name, radius in whole["radii"].items()]
        unit = "at multiple of the set" if threat["q"] is None else f"at radius, q={threat['q']}"
        blocks.append(("table", (["share misclassified", unit], rows)))
    if whole.get("features") and threat["eps"] != 0:
        rows = [[name, f"{share:.1%}"] for name, share in whole["features"]]
        blocks.append(("table", (["feature", "share of the adversary's effect"], rows)))
    return blocks
