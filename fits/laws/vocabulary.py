"""Laws of the vocabulary size (arXiv 2407.13623); N is the parameters outside the vocabulary."""

from typing import Any

from fits.laws.law import Law, Parameter, Variable

_N = Variable("N", "parameters without embeddings", "params_active_non_embedding")
_WIDTH = Variable("d", "hidden size", "hidden_size")
_SIZE: dict[str, Any] = {"response": "vocab_size", "unit": "tokens in the vocabulary", "response_column": "vocab_size"}

VOCABULARY = (
    Law(
        name="tao-isoflop",
        formula="exp(K2)*(N/exp(K1))**(2*p)/d",
        variables=(_N, _WIDTH),
        parameters=(
            Parameter("K1", "log coefficient of N in C**0.5", "real", (-4.0, 0.0)),
            Parameter("K2", "log coefficient of the vocabulary parameters", "real", (-4.0, 0.0)),
            Parameter("p", "compute exponent of the vocabulary parameters", typical=(0.2, 0.6)),
        ),
        source="arXiv 2407.13623, approach 1",
        notes="Compute is that at which N is optimal: C = (N/exp(K1))**2.",
        **_SIZE,
    ),
    Law(
        name="tao-derivative",
        formula="V0*(N/N0)**gamma/d",
        variables=(_N, _WIDTH),
        parameters=(
            Parameter("V0", "vocabulary parameters of the anchor", typical=(1e6, 1e7)),
            Parameter("N0", "parameters of the anchor", typical=(1e7, 1e8)),
            Parameter("gamma", "exponent", typical=(0.5, 1.0)),
        ),
        source="arXiv 2407.13623, approach 2",
        notes="Proportional to its anchor, a grid point whose spacing is 33 to 50 %.",
        **_SIZE,
    ),
    Law(
        name="tao-loss",
        formula="-E + A1/N**a1 + A2/(V*d)**a2 + B/D**b",
        variables=(
            Variable("N", "parameters without embeddings, in millions", "params_active_non_embedding/1e6"),
            Variable("V", "vocabulary size, in thousands", "vocab_size/1e3"),
            Variable("d", "hidden size, in thousands", "hidden_size/1e3"),
            Variable("D", "training tokens, in billions", "tokens/1e9"),
        ),
        parameters=(
            Parameter("E", "minus the irreducible loss", typical=(1.0, 10.0)),
            Parameter("A1", "size coefficient", typical=(0.1, 10.0)),
            Parameter("A2", "vocabulary coefficient", typical=(0.01, 5.0)),
            Parameter("B", "data coefficient", typical=(0.1, 10.0)),
            Parameter("a1", "size exponent"),
            Parameter("a2", "vocabulary exponent", typical=(0.1, 1.5)),
            Parameter("b", "data exponent"),
        ),
        response="unigram_normalised_loss",
        unit="nats/token less the unigram model's",
        response_column="unigram_normalised_loss",
        source="arXiv 2407.13623, approach 3",
        notes="The published coefficients were fitted with a unit slip in tokens per character.",
    ),
)
