"""Laws of mixture-of-experts models. Every law says which N, which A and which G it counts."""

from fits.laws.law import Law, Parameter, Variable

_N = Variable("N", "active parameters without embeddings", "params_active_non_embedding")
_D = Variable("D", "training tokens", "tokens")
_S = Variable("S", "sparsity, 1 / activation ratio", "1/activation_ratio")
_G = Variable("G", "granularity, 2 hidden_size / expert_ffn_size", "granularity")
_ALPHA = Parameter("alpha", "size exponent")
_BETA = Parameter("beta", "data exponent")
_DELTA = Parameter("delta", "sparsity exponent", "real", (-0.1, 0.4))
_GAMMA = Parameter("gamma", "granularity exponent", "real", (-0.1, 0.3))
_SATURATION = {"Ehat": "1/(1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max)"}
_E_START = Parameter("E_start", "expert count where the gain begins", typical=(1.0, 6.0))
_E_MAX = Parameter("E_max", "expert count where the gain ends", typical=(50.0, 2000.0))

MOE = (
    Law(
        name="moe-bits",
        formula="E + A*N**-alpha*S**-delta*G**-gamma + B*H**-beta + kappa*(log(V) - mu - nu*log(N))**2",
        variables=(
            _N,
            _S,
            _G,
            Variable("H", "UTF-8 bytes of training text", "train_bytes"),
            Variable("V", "vocabulary size", "vocab_size"),
        ),
        parameters=(
            Parameter("E", "irreducible bits per byte", typical=(0.1, 2.0)),
            Parameter("A", "size coefficient", typical=(0.1, 1e4)),
            Parameter("B", "data coefficient", typical=(1.0, 1e6)),
            _ALPHA,
            _BETA,
            _DELTA,
            _GAMMA,
            Parameter("kappa", "cost of a vocabulary off its best size", typical=(1e-4, 0.1)),
            Parameter("mu", "log of the best vocabulary (at N = 1)", (0.0, 20.0), (5.0, 12.0)),
            Parameter("nu", "growth of the best vocabulary with size", "real", (-0.2, 0.5)),
        ),
        response="bits_per_byte",
        unit="bits/byte",
        response_column="bits_per_byte",
        source="this project",
        notes="Joint over everything a proxy sweep varies; fix nu=0 when the sweep varies V at one size only.",
    ),
    Law(
        name="moe-power",
        formula="E + A*N**-alpha*S**-delta*G**-gamma + B*D**-beta",
        variables=(_N, _S, _G, _D),
        parameters=(
            Parameter("E", "irreducible loss", typical=(0.3, 3.0)),
            Parameter("A", "size coefficient", typical=(1.0, 1e4)),
            Parameter("B", "data coefficient", typical=(1.0, 1e5)),
            _ALPHA,
            _BETA,
            _DELTA,
            _GAMMA,
        ),
        source="this project",
        notes="At one vocabulary; sparsity and granularity scale the size term.",
    ),
    Law(
        name="clark",
        formula="10**(a*log10(N) + b*log10(Ehat) + c*log10(N)*log10(Ehat) + d)",
        definitions=_SATURATION,
        variables=(
            Variable("N", "parameters of the dense model of the same width and depth"),
            Variable("E", "experts", "num_experts"),
        ),
        parameters=(
            Parameter("a", "size exponent", "real", (-0.2, 0.0)),
            Parameter("b", "expert exponent", "real", (-0.3, 0.0)),
            Parameter("c", "interaction", "real", (0.0, 0.03)),
            Parameter("d", "intercept", "real", (0.5, 2.0)),
            _E_START,
            _E_MAX,
        ),
        source="arXiv 2202.01169, eq. 9; form of google-deepmind/scaling_laws_for_routing",
        notes="At 130B tokens. All logarithms base 10.",
    ),
    Law(
        name="krajewski",
        formula="c + (g/G**gamma + a)/N**alpha + b/D**beta",
        variables=(
            Variable("N", "total parameters without embeddings", "params_total_non_embedding"),
            _D,
            Variable("G", "granularity, dense FFN size / expert FFN size", "2*granularity"),
        ),
        parameters=(
            Parameter("c", "irreducible loss", typical=(0.1, 2.0)),
            Parameter("g", "granularity coefficient", typical=(0.1, 20.0)),
            Parameter("a", "size coefficient", typical=(1.0, 100.0)),
            Parameter("b", "data coefficient", typical=(1.0, 200.0)),
            Parameter("gamma", "granularity exponent", typical=(0.1, 2.0)),
            _ALPHA,
            _BETA,
        ),
        source="arXiv 2402.07871, eq. 9",
        notes="G = d_ff/d_expert = 4 hidden_size / expert size, twice Tian's. Fitted at 64 experts.",
    ),
    Law(
        name="joint-moe",
        formula="a*Ehat**delta*N**(alpha + gamma*log(Ehat)) + b*Ehat**omega*D**(beta + zeta*log(Ehat)) + c",
        definitions=_SATURATION,
        variables=(
            Variable("N", "active parameters, embeddings in", "params_active"),
            _D,
            Variable("E", "experts", "num_experts"),
        ),
        parameters=(
            Parameter("a", "size coefficient", typical=(1.0, 500.0)),
            Parameter("alpha", "size exponent", "real", (-0.5, -0.05)),
            Parameter("delta", "expert exponent of the size term", "real", (-0.6, 0.2)),
            Parameter("gamma", "size-expert interaction", "real", (-0.03, 0.03)),
            Parameter("b", "data coefficient", typical=(1.0, 500.0)),
            Parameter("beta", "data exponent", "real", (-0.5, -0.05)),
            Parameter("omega", "expert exponent of the data term", "real", (-0.2, 1.0)),
            Parameter("zeta", "data-expert interaction", "real", (-0.06, 0.03)),
            _E_START,
            _E_MAX,
            Parameter("c", "irreducible loss", typical=(0.3, 3.0)),
        ),
        source="arXiv 2502.05172, eq. 7",
        notes="Natural logarithm; G = 1, one expert a token.",
    ),
    Law(
        name="abnar",
        formula="a/N**alpha + b/D**beta + c/(1 - S)**lam + d/((1 - S)**delta*N**gamma) + e",
        variables=(
            Variable("N", "total parameters", "params_total"),
            _D,
            Variable("S", "sparsity, (experts - active)/experts", "(num_experts - experts_per_token)/num_experts"),
        ),
        parameters=(
            Parameter("a", "size coefficient", typical=(10.0, 1e6)),
            Parameter("b", "data coefficient", typical=(10.0, 1e6)),
            Parameter("c", "sparsity coefficient", typical=(0.01, 2.0)),
            Parameter("d", "size-sparsity coefficient", typical=(0.1, 100.0)),
            Parameter("e", "irreducible loss", typical=(0.3, 3.0)),
            Parameter("alpha", "size exponent"),
            _BETA,
            Parameter("lam", "sparsity exponent", "real", (-0.5, 0.3)),
            Parameter("delta", "sparsity exponent of the mixed term", "real", (-0.2, 0.5)),
            Parameter("gamma", "size exponent of the mixed term"),
        ),
        source="arXiv 2501.12370, eq. 5",
        notes="The paper's lambda is written lam. N is the total.",
    ),
    Law(
        name="efficiency-leverage",
        formula="Ahat**(a + d*log10(C) + gamma*log2(G)**2 + beta*log2(G))",
        definitions={"Ahat": "1/(1/(A + 1/(1/A_start - 1/A_max)) + 1/A_max)"},
        variables=(
            Variable("A", "activation ratio, shared experts in", "activation_ratio"),
            Variable("G", "granularity, 2 hidden_size / expert_ffn_size", "granularity"),
            Variable("C", "training FLOPs of the MoE", "train_flops"),
        ),
        parameters=(
            Parameter("a", "exponent", "real", (0.5, 2.0)),
            Parameter("d", "exponent's slope in log10 C", "real", (-0.15, 0.0)),
            Parameter("gamma", "curvature in log2 G", "real", (0.0, 0.05)),
            Parameter("beta", "slope in log2 G", "real", (-0.3, 0.0)),
            Parameter("A_start", "activation ratio where the gain ends", typical=(1e-3, 0.1)),
            Parameter("A_max", "activation ratio where the gain begins", typical=(1.0, 1e17)),
        ),
        response="leverage",
        unit="dense FLOPs / MoE FLOPs at equal loss",
        response_column="leverage",
        source="arXiv 2507.17702, eqs. 10-11",
        notes="The paper states no log bases; log10 of C and log2 of G reproduce its own figures.",
    ),
)
