import math

import numpy as np
import pandas as pd
import pytest

import fits
from fits.errors import UserError
from vocab_study.choice.exact_curves import text_curve
from vocab_study.choice.law_optimum import optimum_by_law
from vocab_study.study.make_study import study_vocabulary


@pytest.fixture(scope="module")
def text(small_corpus, tmp_path_factory):
    return text_curve(study_vocabulary(small_corpus, tmp_path_factory.mktemp("study"), max_size=3000))


LAW = fits.custom_law("E + A*N**-alpha + B*D**-beta + kappa*(log(V) - mu)**2", ["N", "D", "V"], domains={"mu": "real"})
TRUTH = {"E": 1.0, "A": 50.0, "alpha": 0.4, "B": 300.0, "beta": 0.4, "kappa": 0.05, "mu": 6.5}


@pytest.fixture(scope="module")
def fit():
    generator = np.random.default_rng(0)
    rows = [(n, d, v) for n in (1e5, 4e5, 2e6) for d in (1e6, 8e6, 5e7) for v in (300, 600, 1200, 2400)]
    table = pd.DataFrame(rows, columns=["params_active_non_embedding", "tokens", "vocab_size"]).astype(float)
    bind = {"N": "params_active_non_embedding", "D": "tokens", "V": "vocab_size"}
    values = {name: table[column].to_numpy() for name, column in bind.items()}
    table["bits_per_byte"] = LAW.evaluate(TRUTH, values) + 0.002 * generator.standard_normal(len(table))
    return fits.fit(LAW, table, loss="bits_per_byte", bind=bind, bootstrap=100)


def test_the_least_of_the_true_law_is_in_the_interval(fit, text):
    params, width, flops = 1e6, 128, 1e15
    found = optimum_by_law(fit, params, width, flops, text=text)
    sizes = text.sizes.astype(float)
    losses = LAW.evaluate(TRUTH, {"N": params, "D": flops / (6 * (params + sizes * width)), "V": sizes})
    best = sizes[np.argmin(losses)]
    assert best < math.exp(6.5)  # tokens that a larger vocabulary takes away pull it down
    assert found.low <= best <= found.high and found.inside == 1.0
    assert found.extrapolation["D"] > 0


def test_without_a_study_a_law_in_tokens_still_answers(fit):
    found = optimum_by_law(fit, 1e6, 128, 1e15, text=None)
    assert found.low <= found.vocab_size <= found.high


def test_laws_that_cannot_answer(fit, text):
    table = pd.DataFrame({"N": [1e5, 2e5, 4e5, 8e5, 16e5] * 2, "D": np.geomspace(1e6, 1e9, 10)})
    table["loss"] = 1.7 + 400 * table["N"] ** -0.34 + 400 * table["D"] ** -0.28
    dense = fits.fit("hoffmann", table, bind={"N": "N", "D": "D"}, bootstrap=0)
    with pytest.raises(UserError, match="does not know the vocabulary"):
        optimum_by_law(dense, 1e6, 128, 1e15, text=text)
    nats = fit.model_copy(update={"unit": "nats/token"})
    with pytest.raises(UserError, match="cannot be compared across vocabularies"):
        optimum_by_law(nats, 1e6, 128, 1e15, text=text)
    renamed = [v.model_copy(update={"means": "train_bytes"}) if v.name == "D" else v for v in fit.variables]
    with pytest.raises(UserError, match="give --study"):
        optimum_by_law(fit.model_copy(update={"variables": renamed}), 1e6, 128, 1e15, text=None)
