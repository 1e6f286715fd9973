"""Laws of dense models: loss from size, data, compute and shape."""

from fits.laws.law import Law, Parameter, Variable

_N = Variable("N", "parameters", "params_active_non_embedding")
_D = Variable("D", "training tokens", "tokens")
_FLOOR = Parameter("E", "irreducible loss", typical=(0.3, 3.0))
_A = Parameter("A", "size coefficient", typical=(1.0, 1e4))
_B = Parameter("B", "data coefficient", typical=(1.0, 1e5))
_ALPHA = Parameter("alpha", "size exponent")
_BETA = Parameter("beta", "data exponent")

DENSE = (
    Law(
        name="hoffmann",
        formula="E + A/N**alpha + B/D**beta",
        variables=(_N, _D),
        parameters=(_FLOOR, _A, _B, _ALPHA, _BETA),
        source="arXiv 2203.15556, eq. 2",
        notes="Which N is counted moves the exponents; the binding is part of the result.",
    ),
    Law(
        name="kaplan",
        formula="((N_c/N)**(alpha_N/alpha_D) + D_c/D)**alpha_D",
        variables=(_N, _D),
        parameters=(
            Parameter("N_c", "size scale", typical=(1e10, 1e17)),
            Parameter("D_c", "data scale", typical=(1e10, 1e17)),
            Parameter("alpha_N", "size exponent", typical=(0.02, 0.5)),
            Parameter("alpha_D", "data exponent", typical=(0.02, 0.5)),
        ),
        source="arXiv 2001.08361, eq. 1.5",
        notes="No floor: the loss goes to zero with size and data.",
    ),
    Law(
        name="power-law",
        formula="E + A*C**-alpha",
        variables=(Variable("C", "training FLOPs", "train_flops"),),
        parameters=(_FLOOR, Parameter("A", "coefficient", typical=(1.0, 1e5)), Parameter("alpha", "exponent")),
        source="arXiv 2001.08361, with a floor",
        notes="Loss of compute-optimal runs; fit the best run of each budget.",
    ),
    Law(
        name="allocation",
        formula="k*C**p",
        variables=(Variable("C", "training FLOPs", "train_flops"),),
        parameters=(Parameter("k", "coefficient", typical=(1e-4, 1e2)), Parameter("p", "exponent", "real", (0.2, 0.9))),
        response="optimum",
        unit="as stated by the coefficient set",
        response_column="params_active_non_embedding",
        source="arXiv 2203.15556, table 2 (form)",
        notes="Compute-optimal size, tokens or FLOPs per token as a power of compute.",
    ),
    Law(
        name="muennighoff",
        formula="E + A/N_eff**alpha + B/D_eff**beta",
        definitions={
            "D_eff": "U + U*R_D*(1 - exp(-(D/U - 1)/R_D))",
            # The size that is compute-optimal for the unique tokens; min(a, b) = (a + b - |a - b|)/2.
            "N_opt": "((alpha*A/(beta*B))*U**beta)**(1/alpha)",
            "U_N": "(N + N_opt - abs(N - N_opt))/2",
            "N_eff": "U_N + U_N*R_N*(1 - exp(-(N/U_N - 1)/R_N))",
        },
        variables=(
            _N,
            Variable("D", "training tokens, repeats counted", "tokens"),
            Variable("U", "unique tokens", "unique_tokens"),
        ),
        parameters=(
            _FLOOR,
            _A,
            _B,
            _ALPHA,
            _BETA,
            Parameter("R_D", "repetition scale of data", typical=(1.0, 50.0)),
            Parameter("R_N", "excess scale of parameters", typical=(1.0, 50.0)),
        ),
        source="arXiv 2305.16264, eqs. 5-7",
        notes="The base law's five coefficients are usually fixed and R_D, R_N fitted.",
    ),
    Law(
        name="gadre",
        formula="E + A*N**b + B*D**b",
        variables=(_N, _D),
        parameters=(
            _FLOOR,
            Parameter("A", "size coefficient", typical=(1.0, 1e4)),
            Parameter("B", "data coefficient", typical=(1.0, 1e4)),
            Parameter("b", "shared exponent, -2 eta", "real", (-0.6, -0.1)),
        ),
        source="arXiv 2403.08540, eq. 4",
        notes="Their b' is B/6**(b/2). The loss at a fixed D/N is a power of compute with exponent eta = -b/2.",
    ),
    Law(
        name="gemstones-width-depth",
        formula="E + A/W**alpha + B/H**beta + G/D**gamma",
        variables=(
            Variable("W", "width", "hidden_size"),
            Variable("H", "layers", "num_layers"),
            _D,
        ),
        parameters=(
            _FLOOR,
            Parameter("A", "width coefficient", typical=(1.0, 1e4)),
            Parameter("B", "depth coefficient", typical=(0.1, 1e3)),
            Parameter("G", "data coefficient", typical=(1.0, 1e5)),
            Parameter("alpha", "width exponent", typical=(0.1, 1.5)),
            Parameter("beta", "depth exponent", typical=(0.1, 1.5)),
            Parameter("gamma", "data exponent"),
        ),
        source="arXiv 2502.06857, width-depth form",
    ),
    Law(
        name="gemstones-shape",
        formula="E + A/W**alpha + B/H**beta + P/N**rho + G/D**gamma",
        variables=(
            Variable("W", "width", "hidden_size"),
            Variable("H", "layers", "num_layers"),
            _N,
            _D,
        ),
        parameters=(
            _FLOOR,
            Parameter("A", "width coefficient", typical=(0.3, 300.0)),
            Parameter("B", "depth coefficient", typical=(0.1, 100.0)),
            Parameter("P", "size coefficient", typical=(1.0, 1e5)),
            Parameter("G", "data coefficient", typical=(1.0, 1e6)),
            Parameter("alpha", "width exponent", typical=(0.1, 1.0)),
            Parameter("beta", "depth exponent", typical=(0.1, 1.0)),
            Parameter("rho", "size exponent"),
            Parameter("gamma", "data exponent"),
        ),
        source="arXiv 2502.06857, four-term form",
    ),
    Law(
        name="farseer",
        formula="exp(s*N**q + S) + exp(B*N**b + Q)*D**-exp(A*N**a + E)",
        variables=(_N, _D),
        parameters=(
            Parameter("s", domain="real", typical=(-0.2, 0.05)),
            Parameter("q", domain="real", typical=(0.0, 0.3)),
            Parameter("S", domain="real", typical=(-1.0, 1.0)),
            Parameter("B", domain="real", typical=(-20.0, 100.0)),
            Parameter("b", domain="real", typical=(-0.4, 0.0)),
            Parameter("Q", domain="real", typical=(-10.0, 10.0)),
            Parameter("A", domain="real", typical=(-0.5, 0.1)),
            Parameter("a", domain="real", typical=(0.0, 0.3)),
            Parameter("E", domain="real", typical=(-2.0, 1.0)),
        ),
        source="arXiv 2506.10972; form from a benchmark's appendix, coefficients not seen",
        notes="Nine parameters that trade off; expect wide intervals below a hundred runs.",
    ),
)
