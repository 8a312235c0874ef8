"""The measures' names as figures and tables say them, and their settings in few characters."""

NAMES = {  # of those whose name is not said by its own words
    "box_sharpness_unit_subspace": "box sharpness in a random subspace (unit columns)",
    "box_sharpness_gaussian_subspace": "box sharpness in a random subspace (Gaussian columns)",
    "hessian_max_eig": "largest Hessian eigenvalue",
    "hessian_min_eig": "smallest Hessian eigenvalue",
    "hessian_top_eigs": "largest Hessian eigenvalues",
    "hessian_frobenius": "squared Frobenius norm of the Hessian",
    "layer_max_eig": "largest Hessian eigenvalue of a layer",
    "layer_trace": "Hessian trace of a layer",
    "gauss_newton_max_eig": "largest Gauss-Newton eigenvalue",
}
PROPER = {
    "hessian": "Hessian",
    "gauss newton": "Gauss-Newton",
    "gaussian": "Gaussian",
    "laplace": "Laplace",
    "pac bayes": "PAC-Bayes",
    "sgd": "SGD",
    "linf": "l-infinity",
    "filter normalized": "filter-normalized",
    "logit normalized": "logit-normalized",
    "m sharpness": "m-sharpness",
}


def measure_in_words(measure: str) -> str:
    """`hessian_trace` -> "Hessian trace"; also of measures that are not this project's."""
    if measure in NAMES:
        return NAMES[measure]
    words = f" {measure.replace('_', ' ')} "
    for plain, proper in PROPER.items():
        words = words.replace(f" {plain} ", f" {proper} ")
    return words.strip()


def short(number: float) -> str:
    """At most 12 digits, without zeros that a power of ten says: 0.0005 -> "5e-4", 0.05 -> "0.05"."""
    text = f"{number:.12g}"
    digits, _, power = f"{number:.11e}".partition("e")
    scientific = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return scientific if len(scientific) < len(text) else text
