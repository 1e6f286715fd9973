"""Laws of the learning rate, the batch size and the weight decay."""

from typing import Any

from fits.laws.law import Law, Parameter, Variable

_N = Variable("N", "parameters without embeddings (mixture-of-experts: the total)", "params_total")
_D = Variable("D", "training tokens", "tokens")
_C = Variable("C", "training FLOPs", "train_flops")
_RATE: dict[str, Any] = {"response": "learning_rate", "unit": "peak learning rate", "response_column": "learning_rate"}
_BATCH: dict[str, Any] = {"response": "batch_tokens", "unit": "tokens/batch", "response_column": "batch_tokens"}

HYPERPARAMETERS = (
    Law(
        name="learning-rate-size-data",
        formula="k*N**p*D**q",
        variables=(_N, _D),
        parameters=(
            Parameter("k", "coefficient", typical=(1e-2, 1e2)),
            Parameter("p", "size exponent", "real", (-1.0, 0.0)),
            Parameter("q", "data exponent", "real", (-0.5, 0.5)),
        ),
        source="arXiv 2503.04715, eq. 1",
        **_RATE,
    ),
    Law(
        name="batch-data",
        formula="k*D**q",
        variables=(_D,),
        parameters=(Parameter("k", "coefficient", typical=(1e-2, 1e2)), Parameter("q", "exponent", "real", (0.2, 0.9))),
        source="arXiv 2503.04715, eq. 1",
        **_BATCH,
    ),
    Law(
        name="learning-rate-compute",
        formula="k*C**p",
        variables=(_C,),
        parameters=(
            Parameter("k", "coefficient", typical=(1e-2, 1e2)),
            Parameter("p", "exponent", "real", (-0.4, 0.0)),
        ),
        source="arXiv 2401.02954, eq. 1",
        **_RATE,
    ),
    Law(
        name="batch-compute",
        formula="k*C**p",
        variables=(_C,),
        parameters=(Parameter("k", "coefficient", typical=(1e-3, 1e2)), Parameter("p", "exponent", "real", (0.1, 0.6))),
        source="arXiv 2401.02954, eq. 1",
        **_BATCH,
    ),
    Law(
        name="learning-rate-experts",
        formula="exp(k + p*log(N) + q*log(E))",
        variables=(
            Variable("N", "active parameters without embeddings", "params_active_non_embedding"),
            Variable("E", "experts", "num_experts"),
        ),
        parameters=(
            Parameter("k", "intercept", "real", (0.0, 12.0)),
            Parameter("p", "size exponent", "real", (-1.0, 0.0)),
            Parameter("q", "expert exponent", "real", (-0.6, 0.2)),
        ),
        source="arXiv 2502.05172, section on hyperparameters",
        **_RATE,
    ),
    Law(
        name="weight-decay-timescale",
        formula="c*(D/N)**m",
        variables=(Variable("N", "parameters", "params_active"), _D),
        parameters=(
            Parameter("c", "coefficient", typical=(0.1, 10.0)),
            Parameter("m", "exponent", "real", (-1.0, 0.0)),
        ),
        response="timescale",
        unit="tau = batch / (learning rate * weight decay * tokens)",
        response_column="timescale",
        source="arXiv 2505.13738, eq. 4",
        notes="Dense models in muP with linear decay to zero.",
    ),
)
